//! The one error of the framework: what went wrong, in words, and whose fault it is.
//!
//! It owns the four faults and the words that user code classifies with. It promises that `?` takes any
//! standard error (as [`Fault::Failed`]). It does not decide what becomes of a job: [`judge`](crate::judge) does.

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;

/// A result whose error is forebay's own unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an error is, which is all that the framework needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The caller's: the same input would fail for ever. The job is rejected.
    Invalid,
    /// Nobody's: the same job is expected to pass later. It is given back after a pause, however often.
    Transient,
    /// Unknown: tried again until the attempts are used up, then rejected.
    Failed,
    /// The node's: this process must not go on. Every lease is given back and the process ends.
    Fatal,
}

impl Fault {
    /// The fault in lower case, as metrics and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Invalid => "invalid",
            Fault::Transient => "transient",
            Fault::Failed => "failed",
            Fault::Fatal => "fatal",
        }
    }
}

/// What went wrong and whose fault it is. Cheap to clone, since one failed batch answers many jobs.
///
/// It deliberately does not implement [`std::error::Error`]: only so can `?` turn every standard error into it.
#[derive(Clone)]
pub struct Error {
    fault: Fault,
    source: Arc<dyn StdError + Send + Sync>,
}

impl Error {
    /// An error of the given fault around a standard error.
    pub fn new(fault: Fault, source: impl StdError + Send + Sync + 'static) -> Self {
        let source = Arc::new(source);
        Error { fault, source }
    }

    /// The caller's fault: `message` should say what to change.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::new(Fault::Invalid, Message::new(message))
    }

    /// A passing fault.
    pub fn transient(message: impl fmt::Display) -> Self {
        Self::new(Fault::Transient, Message::new(message))
    }

    /// A fault of unknown kind.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Fault::Failed, Message::new(message))
    }

    /// A fault of this node or process.
    pub fn fatal(message: impl fmt::Display) -> Self {
        Self::new(Fault::Fatal, Message::new(message))
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// The same error laid to another fault.
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// The code with which a program ends that this error keeps from its work: [`EXIT_NODE_FAULT`](crate::EXIT_NODE_FAULT)
    /// if the fault is the node's, and else 2.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.fault == Fault::Fatal { crate::EXIT_NODE_FAULT } else { 2 })
    }

    /// The same error behind a line that says what was being done, such as the file being read.
    pub fn context(self, message: impl fmt::Display) -> Self {
        let source = Message { text: message.to_string(), source: Some(self.source) };
        Error { fault: self.fault, source: Arc::new(source) }
    }

    /// The innermost error of type `E`, where there is one.
    pub fn find<E: StdError + 'static>(&self) -> Option<&E> {
        let outermost: &(dyn StdError + 'static) = &*self.source;
        std::iter::successors(Some(outermost), |error| (*error).source())
            .filter_map(|error| error.downcast_ref())
            .last()
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(source: E) -> Self {
        Error::new(Fault::Failed, source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        let mut next = self.source.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.fault.as_str())
    }
}

/// Says whose fault a failure is: `text.parse::<u32>().or_invalid()?`.
pub trait Classify<T> {
    /// The caller's fault: the job is rejected.
    fn or_invalid(self) -> Result<T>;
    /// A passing fault: the job is tried again later.
    fn or_transient(self) -> Result<T>;
    /// This node's fault: the process ends after giving everything back.
    fn or_fatal(self) -> Result<T>;
}

impl<T, E: Into<Error>> Classify<T> for std::result::Result<T, E> {
    fn or_invalid(self) -> Result<T> {
        self.map_err(|error| error.into().with_fault(Fault::Invalid))
    }

    fn or_transient(self) -> Result<T> {
        self.map_err(|error| error.into().with_fault(Fault::Transient))
    }

    fn or_fatal(self) -> Result<T> {
        self.map_err(|error| error.into().with_fault(Fault::Fatal))
    }
}

/// Puts what was being done before what went wrong: `read(&path).context("reading the inbox")?`.
pub trait Context<T> {
    /// Adds a fixed line.
    fn context(self, message: impl fmt::Display) -> Result<T>;
    /// Adds a line that is only made when there is an error.
    fn with_context<D: fmt::Display>(self, message: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(message))
    }

    fn with_context<D: fmt::Display>(self, message: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(message()))
    }
}

/// The job's own deadline went by before it was done. Found with [`Error::find`] by sources that answer it in a
/// way of their own.
#[derive(Debug)]
pub struct DeadlinePassed;

impl fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the job's deadline passed before it was done")
    }
}

impl StdError for DeadlinePassed {}

/// The device had no memory for a batch. A [`Model`](crate::Model) whose batch fails with it, found by [`Error::find`],
/// has the batch's halves run instead, and smaller batches for a while.
///
/// Give it the fault [`Failed`](Fault::Failed), which it has through `?`: an item for which there is no memory alone
/// fails with it, and is tried again until its attempts are used up.
///
/// ```
/// use forebay::{Context, Fault, OutOfMemory};
///
/// let answered = Err::<(), _>(OutOfMemory::new("the device has no memory left"));
/// let error = answered.context("a batch of 64 texts").unwrap_err();
/// assert!(error.find::<OutOfMemory>().is_some());
/// assert_eq!(error.fault(), Fault::Failed);
/// ```
#[derive(Clone, Debug)]
pub struct OutOfMemory(String);

impl OutOfMemory {
    /// Out of memory; `message` says what was being done and what the device answered.
    pub fn new(message: impl fmt::Display) -> Self {
        OutOfMemory(message.to_string())
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for OutOfMemory {}

#[derive(Debug)]
struct Message {
    text: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Message {
    fn new(text: impl fmt::Display) -> Self {
        Message { text: text.to_string(), source: None }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Message {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_from_what_was_done_to_what_went_wrong() {
        let number = "x".parse::<u32>().or_invalid().context("the field `n`");
        let error = number.unwrap_err();
        assert_eq!(error.fault(), Fault::Invalid);
        assert_eq!(error.to_string(), "the field `n`: invalid digit found in string");
        assert!(error.find::<std::num::ParseIntError>().is_some());
    }

    #[test]
    fn question_mark_takes_any_error_as_failed() {
        fn parse(text: &str) -> Result<u32> {
            Ok(text.parse()?)
        }
        assert_eq!(parse("x").unwrap_err().fault(), Fault::Failed);
    }

    #[test]
    fn only_the_nodes_fault_ends_a_program_with_the_code_for_it() {
        let is = |error: Error, code: u8| {
            assert_eq!(format!("{:?}", error.exit_code()), format!("{:?}", ExitCode::from(code)))
        };
        is(Error::fatal("the card is gone").context("loading"), 70);
        is(Error::invalid("no device"), 2);
        is(Error::transient("busy"), 2);
    }

    #[test]
    fn context_keeps_the_fault() {
        let error = Error::transient("busy").context("uploading");
        assert_eq!(error.fault(), Fault::Transient);
        assert_eq!(format!("{error:?}"), "transient: uploading: busy");
    }
}
