//! What a stage runs on: places that bound it, a queue in front of threads, and the fence around user code.

pub(crate) mod cpu;
pub(crate) mod panic;
pub(crate) mod places;
pub(crate) mod queue;
pub(crate) mod replies;
pub(crate) mod turns;
