//! `forebay submit`: what there is to send, what was sent before, and the sending.
//!
//! [`input`] finds the jobs, always the same ones in the same order; [`journal`] remembers which of them are on the
//! queue, so that the same command goes on where an interrupted one was; [`sending`] puts the others there, in the child
//! process of [`survivor`].

mod input;
mod journal;
mod lock;
mod sending;
mod survivor;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum;
use forebay::source::sqs::{Sqs, Terms};
use forebay::store::Folder;
use forebay::{Classify, Context, Error, Priority, Result};

use super::place::Place;
use super::{count, whether};
use input::Input;
use journal::Header;
pub use journal::Journal;
use sending::{Report, send};

/// For how long a FIFO queue drops what it has taken before, less some time for calls that were slow.
const FIFO_DROPS: Duration = Duration::from_secs(4 * 60 + 30);

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
    /// A file, which is one job; or a folder, of which every file is one, but for hidden ones.
    #[arg(required_unless_present = "lines", conflicts_with = "lines")]
    path: Option<PathBuf>,
    /// A file of which every line is a job, but for empty ones; `-` for standard input, which is read to its end first.
    #[arg(long, value_name = "FILE")]
    lines: Option<PathBuf>,
    /// The field of each line's JSON object that is the job's id, instead of `NAME:LINENUMBER`.
    #[arg(long, value_name = "FIELD", requires = "lines")]
    id_field: Option<String>,
    /// Put before every id.
    #[arg(long, default_value = "")]
    prefix: String,
    #[command(flatten)]
    envelope: Envelope,
    /// Payloads that are too large for a message go into this store, as the bucket of that name.
    #[arg(long, value_name = "BUCKET=FOLDER")]
    objects: Option<String>,
    /// Where it is written down what was sent. By default beside the input, as NAME.forebay-journal; standard input has
    /// none.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Forget what was sent before, and send everything.
    #[arg(long)]
    restart: bool,
}

/// What each job's envelope says beside its id and payload.
#[derive(clap::Args)]
struct Envelope {
    /// How soon the jobs want their turn.
    #[arg(long, value_enum, default_value = "normal")]
    priority: Class,
    /// Which of the worker's pipelines they are for.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Where their output should go.
    #[arg(long, value_name = "TEXT")]
    output: Option<String>,
    /// A URL that wants to hear of their ends.
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// When they must be done, such as 2030-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339)]
    deadline: Option<SystemTime>,
    /// Anything else by name. May be given several times.
    #[arg(long, value_name = "NAME=TEXT", value_parser = pair)]
    label: Vec<(String, String)>,
    /// The payloads' media type.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Class {
    High,
    Normal,
    Low,
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("it should be NAME=TEXT")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Envelope {
    fn terms(&self) -> Terms {
        Terms {
            priority: match self.priority {
                Class::High => Priority::High,
                Class::Normal => Priority::Normal,
                Class::Low => Priority::Low,
            },
            route: self.route.clone(),
            output: self.output.clone(),
            webhook: self.webhook.clone(),
            deadline: self.deadline,
            content_type: self.content_type.clone(),
            labels: self.label.iter().cloned().collect::<BTreeMap<_, _>>(),
        }
    }
}

pub async fn run(arguments: Arguments) -> Result<ExitCode> {
    match survivor::is_child()? {
        true => submit(arguments).await,
        false => survivor::watch().await,
    }
}

async fn submit(arguments: Arguments) -> Result<ExitCode> {
    let sqs = with_objects(arguments.place.sqs(), arguments.objects.as_deref())?;
    let input = arguments.input()?;
    let terms = arguments.envelope.terms();
    let header = Header::new(&arguments.place.to_string(), &input, &arguments.prefix, &terms);
    let path = arguments.journal.clone().or_else(|| beside(&input));
    let journal = match &path {
        Some(path) => Journal::open(path, header, arguments.restart)?,
        None => {
            eprintln!("without --journal nothing is remembered: interrupted, it would begin anew");
            Journal::none(header)
        }
    };
    let (total, before) = (input.count(), journal.sent());
    if before == total {
        println!("all {} were sent already", count(total, "job"));
        return Ok(ExitCode::SUCCESS);
    }
    let is_fifo = arguments.place.queue.ends_with(".fifo");
    tell_doubts(&journal, is_fifo, total);
    let begun = Instant::now();
    let report = send(sqs.queue(), input, terms, arguments.prefix, journal).await?;
    tell(&report, begun.elapsed(), total);
    if let (Some(why), 0, 0) = (&report.stopped_by, before, report.sent) {
        return Err(why.clone());
    }
    if let Some(why) = &report.stopped_by {
        eprintln!("forebay: {why}");
    }
    Ok(whether(before + report.sent == total))
}

fn with_objects(sqs: Sqs, told: Option<&str>) -> Result<Sqs> {
    let Some(told) = told else {
        return Ok(sqs);
    };
    let wrong = || Error::invalid(format_args!("--objects is `{told}`, but should be BUCKET=FOLDER"));
    let (bucket, folder) = told.split_once('=').ok_or_else(wrong)?;
    let store = Folder::open(folder).or_invalid().with_context(|| format!("the folder `{folder}` of --objects"))?;
    Ok(sqs.objects(bucket, store))
}

impl Arguments {
    fn input(&self) -> Result<Input> {
        let Some(lines) = &self.lines else {
            return Input::files(self.path.as_deref().unwrap_or(Path::new(".")));
        };
        let id_field = self.id_field.clone();
        if lines.as_os_str() != "-" {
            return Input::lines(lines, id_field);
        }
        if self.prefix.is_empty() && id_field.is_none() {
            return Err(Error::invalid(
                "jobs from standard input need names of their own, or those of the next input would be the same: \
                 give --prefix or --id-field",
            ));
        }
        Input::stdin(id_field)
    }
}

/// The journal of an input that is a path.
fn beside(input: &Input) -> Option<PathBuf> {
    let path = input.path()?;
    let mut name = path.file_name()?.to_owned();
    name.push(input::JOURNAL);
    Some(path.with_file_name(name))
}

/// What is known of an interrupted run.
fn tell_doubts(journal: &Journal, is_fifo: bool, total: usize) {
    if journal.sent() > 0 {
        eprintln!("{} of {total} jobs were sent before", journal.sent());
    }
    let doubts = count(journal.doubts(), "job");
    let old = journal.doubts_before(SystemTime::now() - FIFO_DROPS);
    match (journal.doubts(), is_fifo, old) {
        (0, ..) => {}
        (_, true, 0) => eprintln!("{doubts} in doubt: sent again, and this FIFO queue drops those that it has"),
        (_, true, old) => eprintln!(
            "{doubts} in doubt: sent again; {old} of them were sent more than 4.5 minutes ago, and of those this FIFO \
             queue may take repeats. A worker with `Committed` runs each id once"
        ),
        (_, false, _) => eprintln!(
            "{doubts} in doubt: sent again under the same ids, and so they may be twice on this standard queue. A \
             worker with `Committed` runs each id once"
        ),
    }
}

fn tell(report: &Report, took: Duration, total: usize) {
    let seconds = took.as_secs_f64();
    let rate = report.sent as f64 / seconds.max(0.001);
    println!("sent {} in {seconds:.1} s ({rate:.0}/s)", count(report.sent, "job"));
    if report.maybe_twice > 0 {
        let jobs = count(report.maybe_twice, "job");
        println!("{jobs} may be on the queue twice: a call had no answer. A worker with `Committed` runs each id once");
    }
    for why in &report.refused {
        eprintln!("forebay: {why}");
    }
    if report.refused_count > report.refused.len() {
        eprintln!("forebay: and {} more", report.refused_count - report.refused.len());
    }
    if report.refused_count > 0 {
        eprintln!("{} of {total} could not be sent, the others were", count(report.refused_count, "job"));
    }
    if report.unclear > 0 {
        eprintln!("{} in doubt: the queue did not answer", count(report.unclear, "job"));
    }
    if report.interrupted || report.stopped_by.is_some() {
        eprintln!("stopped: the same command goes on where this one was");
    }
}
