//! A value that cannot travel between threads.

use std::rc::Rc;

use forebay::Pipeline;

fn main() {
    let _ = Pipeline::<Rc<str>, Rc<str>>::new();
}
