//! A link with a delay and a rate ([`Link`]) as a process of its own, so that what it costs is not counted to whoever
//! sends along it.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use forebay::{Classify, Result};
use forebay_tests::{Link, Process};

/// The first argument of such a process.
const NAME: &str = "link";

/// Starts this program once more, as a link to `server`: `round_trip` milliseconds there and back, and `rate` bits a
/// second each way, 0 for no limit. Its address is the link's; it ends when it is dropped.
pub fn start(server: SocketAddr, round_trip: u64, rate: u64) -> Result<Process> {
    let mut program = Command::new(std::env::current_exe()?);
    program.args([NAME, &server.to_string(), &round_trip.to_string(), &rate.to_string()]).stdin(Stdio::piped());
    Ok(Process::start(&mut program))
}

/// Is that process, until its standard input ends, where the arguments ask for it; whether they did.
pub fn serve(arguments: &[String]) -> Result<bool> {
    let [name, server, round_trip, rate] = arguments else { return Ok(false) };
    if name != NAME {
        return Ok(false);
    }
    let server: SocketAddr = server.parse().or_invalid()?;
    let (round_trip, rate): (u64, u64) = (round_trip.parse().or_invalid()?, rate.parse().or_invalid()?);
    let mut link = Link::to(server).delay(Duration::from_micros(500 * round_trip));
    if rate > 0 {
        link = link.up(rate).down(rate);
    }
    let link = link.open();
    println!("{}", link.address().port());
    std::io::stdout().flush()?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(true)
}
