//! The parent process of a worker: it sees how the worker dies, and says so where the jobs are known.
//!
//! It starts the same program again as its child and does nothing but pass on SIGTERM and SIGINT, reap what is left to
//! it as the first process of a container, and wait. It ends with its child's exit code. A crash is what the process
//! brought upon itself: a signal such as SIGABRT or SIGSEGV, or too much memory. Whoever kills parent and child
//! together leaves nobody to say anything, and that is a loss.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, set_parent_process_death_signal, wait, waitpid,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::config::SUPERVISOR;
use crate::error::{Context, Error, Result};

/// How long after its child was killed a parent waits for its own end before it takes that for a crash.
const KILLED_TOO: Duration = Duration::from_secs(1);

/// How the child ended.
pub(super) struct Ended {
    pub(super) pid: u32,
    /// Its own, or 128 and the signal's number.
    pub(super) code: u8,
    /// What killed it, if it was a crash.
    pub(super) crash: Option<String>,
}

/// In a child: when its parent dies, it is told to stop.
pub(super) fn stop_with_parent() {
    if let Err(why) = set_parent_process_death_signal(Some(Signal::TERM)) {
        warn!(error = %why, "this worker will not notice if its supervisor dies");
    }
}

/// Runs this program as a child until that ends.
pub(super) async fn run_child() -> Result<Ended> {
    let (sender, ended) = oneshot::channel();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = runtime.context("starting the supervisor's runtime").and_then(|runtime| runtime.block_on(watch()));
        // Whoever waits for it may have been dropped.
        let _ = sender.send(ended);
    };
    // A thread that lasts as long as the child: a child's parent is the thread that started it.
    std::thread::Builder::new()
        .name("forebay-supervisor".to_owned())
        .spawn(work)
        .context("starting the supervisor's thread")?;
    ended.await.map_err(|_| Error::fatal("the supervisor's thread has ended"))?
}

async fn watch() -> Result<Ended> {
    let hear = |kind| signal(kind).context("listening for signals");
    let (mut terminate, mut interrupt) = (hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?);
    let mut children = hear(SignalKind::child())?;
    let killed_before = oom_kills();
    let (number, child) = start()?;
    info!(pid = number, "watching over the worker");
    let mut told = false;
    let death = loop {
        tokio::select! {
            _ = terminate.recv() => told |= pass_on(child, Signal::TERM),
            _ = interrupt.recv() => told |= pass_on(child, Signal::INT),
            _ = children.recv() => match reap(child) {
                Ok(Some(status)) => break Death::of(status),
                Ok(None) => {}
                Err(why) => {
                    warn!(error = %why, "nobody knows how the worker ended");
                    break Death::Exit(1);
                }
            },
        }
    };
    let out_of_memory = Option::zip(killed_before, oom_kills()).map(|(before, now)| now > before);
    let crash = death.crash(told, out_of_memory);
    if death == Death::Signal(KILL) && out_of_memory != Some(true) {
        // Whoever kills both at once may have come to the child first.
        sleep(KILLED_TOO).await;
    }
    Ok(Ended { pid: number, code: death.code(), crash })
}

/// In a process group of its own, so that what a terminal tells its group is told to the child once, by its parent.
fn start() -> Result<(u32, Pid)> {
    let program = std::env::current_exe().context("finding this program")?;
    let child = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .env(SUPERVISOR, std::process::id().to_string())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting `{}`", program.display()))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::fatal("a process number out of range"))?;
    Ok((child.id(), pid))
}

fn pass_on(child: Pid, signal: Signal) -> bool {
    if let Err(why) = kill_process(child, signal) {
        warn!(error = %why, ?signal, "a signal could not be passed on");
    }
    true
}

/// How the child ended, if it has. The first process of a container is left with everybody's orphans.
fn reap(child: Pid) -> Result<Option<WaitStatus>> {
    if std::process::id() != 1 {
        let ended = waitpid(Some(child), WaitOptions::NOHANG).context("waiting for the worker")?;
        return Ok(ended.map(|(_, status)| status));
    }
    let mut its = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => its = Some(status),
            Ok(Some(_)) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(its),
            Err(why) => return Err(why).context("waiting for child processes"),
        }
    }
}

/// How many processes of this control group were killed for want of memory; `None` where it is not told. In a
/// container the group's own folder is often the root of what is mounted, whatever its name outside.
fn oom_kills() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let (folder, file, group) = groups.lines().find_map(|line| match line.strip_prefix("0::") {
        Some(group) => Some(("/sys/fs/cgroup", "memory.events", group)).filter(|_| Path::new(UNIFIED).exists()),
        None => Some(("/sys/fs/cgroup/memory", "memory.oom_control", line.split_once(":memory:")?.1)),
    })?;
    let read = |group| std::fs::read_to_string(format!("{folder}{group}/{file}"));
    let events = read(group).or_else(|_| read("")).ok()?;
    events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

/// There where control groups are of version 2.
const UNIFIED: &str = "/sys/fs/cgroup/cgroup.controllers";

const KILL: i32 = Signal::KILL.as_raw();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Exit(u8),
    Signal(i32),
}

impl Death {
    fn of(status: WaitStatus) -> Self {
        match (status.terminating_signal(), status.exit_status()) {
            (Some(signal), _) => Death::Signal(signal),
            // A wrapper passes the signal of what it ran on so.
            (None, Some(code @ 129..=159)) => Death::Signal(code - 128),
            (None, code) => Death::Exit(code.unwrap_or(1) as u8),
        }
    }

    fn code(self) -> u8 {
        match self {
            Death::Exit(code) => code,
            Death::Signal(signal) => 128 + signal as u8,
        }
    }

    /// What it died of, if that was a crash: not of what others sent it. `told` says that it was told to stop before,
    /// and `out_of_memory` whether the kernel killed for memory meanwhile, where that is known.
    fn crash(self, told: bool, out_of_memory: Option<bool>) -> Option<String> {
        let Death::Signal(signal) = self else {
            return None;
        };
        let sent = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::PIPE, Signal::USR1, Signal::USR2];
        if sent.iter().any(|sent| sent.as_raw() == signal) {
            return None;
        }
        if signal != KILL {
            return Some(format!("died by signal {signal}{}", name(signal)));
        }
        match out_of_memory {
            Some(true) => Some("was killed by the kernel: out of memory".to_owned()),
            None if !told => Some("was killed (SIGKILL), as for want of memory".to_owned()),
            Some(false) | None => None,
        }
    }
}

fn name(signal: i32) -> &'static str {
    let names = [
        (Signal::ABORT, " (SIGABRT)"),
        (Signal::SEGV, " (SIGSEGV)"),
        (Signal::BUS, " (SIGBUS)"),
        (Signal::ILL, " (SIGILL)"),
        (Signal::FPE, " (SIGFPE)"),
        (Signal::TRAP, " (SIGTRAP)"),
        (Signal::SYS, " (SIGSYS)"),
    ];
    names.iter().find(|(known, _)| known.as_raw() == signal).map_or("", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_what_the_process_brought_upon_itself() {
        let crash = |signal: Signal, told, memory| Death::Signal(signal.as_raw()).crash(told, memory);
        for own in [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE] {
            assert!(crash(own, false, None).is_some(), "{own:?}");
            assert!(crash(own, true, Some(false)).is_some(), "{own:?} while it drained");
        }
        assert_eq!(crash(Signal::ABORT, false, None).as_deref(), Some("died by signal 6 (SIGABRT)"));
        for sent in [Signal::TERM, Signal::INT, Signal::HUP] {
            assert_eq!(crash(sent, false, None), None, "{sent:?}");
        }
        assert!(crash(Signal::KILL, false, Some(true)).is_some_and(|cause| cause.contains("memory")));
        assert!(crash(Signal::KILL, true, Some(true)).is_some());
        assert_eq!(crash(Signal::KILL, false, Some(false)), None, "not for memory: somebody killed it");
        assert!(crash(Signal::KILL, false, None).is_some(), "nobody knows; it was not told to stop");
        assert_eq!(crash(Signal::KILL, true, None), None, "it did not stop in time");
        for code in [0, 1, 70, 101] {
            assert_eq!(Death::Exit(code).crash(false, None), None);
        }
    }

    #[test]
    fn the_exit_code_is_passed_on() {
        assert_eq!(Death::Exit(70).code(), 70);
        assert_eq!(Death::Signal(6).code(), 134);
        assert_eq!(Death::Signal(9).code(), 137);
    }
}
