//! Stage options given as text, so that an operator can size pipelines without a new build.

use super::{Kind, Stage};
use crate::error::{Classify, Context, Error, Result};

/// Applies options such as `fetch.limit=32 embed.items=16`, separated by spaces or commas.
pub(crate) fn apply(stages: &mut [&mut Stage], options: &str) -> Result<()> {
    let words = options.split([' ', ',']).filter(|word| !word.is_empty());
    for word in words {
        set(stages, word).with_context(|| format!("stage option `{word}`"))?;
    }
    Ok(())
}

fn set(stages: &mut [&mut Stage], word: &str) -> Result<()> {
    let shape = "should read `stage.option=number`";
    let (path, value) = word.split_once('=').ok_or_else(|| Error::invalid(shape))?;
    let (name, option) = path.rsplit_once('.').ok_or_else(|| Error::invalid(shape))?;
    let value: usize = value.parse().or_invalid().with_context(|| format!("`{value}` is not a number"))?;
    if value == 0 {
        return Err(Error::invalid("0 would stop the stage; the least is 1"));
    }
    let names: Vec<_> = stages.iter().map(|stage| stage.name).collect();
    let stage = stages.iter_mut().find(|stage| stage.name == name).ok_or_else(|| {
        let names = names.join(", ");
        Error::invalid(format_args!("there is no stage `{name}`; the stages are {names}"))
    })?;
    let field = match (&mut stage.kind, option) {
        (Kind::Io { limit }, "limit") => limit,
        (Kind::Cpu { threads, .. }, "threads") => threads,
        (Kind::Cpu { places, .. }, "places") => places.get_or_insert(1),
        (Kind::Gpu { batching, .. }, "items") => &mut batching.items,
        (Kind::Gpu { batching, .. }, "weight") => batching.weight.get_or_insert(1),
        (Kind::Gpu { batching, .. }, "places") => batching.places.get_or_insert(1),
        (Kind::Steps { stepping }, "jobs") => &mut stepping.jobs,
        (kind, _) => {
            let known = match kind {
                Kind::Io { .. } => "limit",
                Kind::Cpu { .. } => "threads, places",
                Kind::Gpu { .. } => "items, weight, places",
                Kind::Steps { .. } => "jobs",
            };
            return Err(Error::invalid(format_args!("stage `{name}` has no option `{option}`; it has {known}")));
        }
    };
    *field = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::{Batching, Model, Pipeline, Result};

    struct Same;
    impl Model for Same {
        type Input = u8;
        type Output = u8;
        fn infer(&mut self, inputs: &[u8]) -> Result<Vec<u8>> {
            Ok(inputs.to_vec())
        }
    }

    fn pipeline() -> Pipeline<u8, u8> {
        Pipeline::new().io("fetch", 4, async |_, x: u8| Ok(x)).cpu("decode", 2, |_, x| Ok(x)).gpu(
            "embed",
            Batching::items(8),
            || Ok(Same),
        )
    }

    #[test]
    fn options_change_the_description() {
        let sized = pipeline().configure("fetch.limit=32, decode.threads=3 embed.items=16 embed.weight=9");
        assert_eq!(sized.unwrap().to_string(), "fetch[io 32] -> decode[cpu 3] -> embed[gpu 16 items, 9 weight]");
    }

    #[test]
    fn a_wrong_option_says_what_is_known() {
        let cases = [
            ("fetsch.limit=3", "there is no stage `fetsch`; the stages are fetch, decode, embed"),
            ("fetch.threads=3", "stage `fetch` has no option `threads`; it has limit"),
            ("fetch.limit=many", "`many` is not a number"),
            ("fetch.limit=0", "0 would stop the stage"),
            ("fetch=3", "should read `stage.option=number`"),
        ];
        for (option, message) in cases {
            let error = pipeline().configure(option).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            assert!(error.starts_with(&format!("stage option `{option}`")), "{error}");
        }
    }
}
