//! The process that sends: a child of the one that the user has started, which it survives.
//!
//! The parent starts the same program again, passes signals on, waits, and ends with its child's exit code. The child
//! does everything else. When its parent is killed the kernel tells it, and it does as on SIGTERM: it sends no more,
//! and waits for what is on its way. So only what kills both at once leaves jobs in doubt.

use std::os::unix::process::{ExitStatusExt, parent_id};
use std::process::{Child, Command, ExitCode};

use forebay::{Context, Error, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal, setsid};
use tokio::signal::unix::{SignalKind, signal};

/// What a parent sets for its child: its own process number.
const PARENT: &str = "FOREBAY_SUBMIT_PARENT";

/// What the parent makes of a second signal. A second SIGTERM says nothing to the child: it may be of its parent's
/// end, or have been sent to both by somebody who stops whatever has this program's name.
pub const STOP_AT_ONCE: Signal = Signal::USR1;

/// Whether this process is the child, which then survives its parent. An error if that has gone already.
pub fn is_child() -> Result<bool> {
    let Ok(parent) = std::env::var(PARENT) else {
        return Ok(false);
    };
    set_parent_process_death_signal(Some(Signal::TERM)).context("asking to be told of the parent process's end")?;
    if parent != parent_id().to_string() {
        return Err(Error::failed("the process that started this one has gone: nothing was sent"));
    }
    // Out of reach of the terminal's keys. Unlike a mere process group in the background a session may read from the
    // terminal, and write to it however that is set.
    setsid().context("leaving the terminal's session")?;
    Ok(true)
}

/// Has a child do the work: its exit code.
pub async fn watch() -> Result<ExitCode> {
    let hear = |kind| signal(kind).context("listening to signals");
    let (mut terminate, mut interrupt) = (hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?);
    let ignores_hangup = ignores_hangup();
    let (mut hangup, mut ended) = (hear(SignalKind::hangup())?, hear(SignalKind::child())?);
    // The kernel takes this thread for the parent. It is the main thread, and lasts as long as the process.
    let (mut child, pid) = start()?;
    let mut told = false;
    loop {
        let heard = tokio::select! {
            _ = ended.recv() => match code(&mut child, told)? {
                Some(code) => return Ok(code),
                None => continue,
            },
            _ = hangup.recv(), if !ignores_hangup => Signal::HUP,
            _ = terminate.recv() => again(told).unwrap_or(Signal::TERM),
            _ = interrupt.recv() => again(told).unwrap_or(Signal::INT),
        };
        told = true;
        kill_process(pid, heard).context("passing a signal on")?;
    }
}

fn start() -> Result<(Child, Pid)> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1)).env(PARENT, std::process::id().to_string());
    let child = command.spawn().with_context(|| format!("starting `{}`", program.display()))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok((child, pid.ok_or_else(|| Error::fatal("a process number out of range"))?))
}

/// What a signal is if it is not the first.
fn again(told: bool) -> Option<Signal> {
    told.then_some(STOP_AT_ONCE)
}

/// Its exit code, or 128 and the signal's number, if it has ended.
fn code(child: &mut Child, told: bool) -> Result<Option<ExitCode>> {
    let Some(status) = child.try_wait().context("waiting for the process that sends")? else {
        return Ok(None);
    };
    if !told && let Some(signal) = status.signal() {
        eprintln!("forebay: the process that sends was killed by signal {signal}: the same command goes on");
    }
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    Ok(Some(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))))
}

/// Whether the end of the terminal is to change nothing, as under `nohup`.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (Signal::HUP.as_raw() - 1) != 0)
}
