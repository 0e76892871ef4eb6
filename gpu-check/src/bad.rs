//! The command `bad`: what cannot work is refused with words and the documented exit code, and without a panic.
//!
//! Owns a table of such starts, each of this program in a process of its own. What needs no card to go wrong is tested
//! without one too; drivers that are missing or too old are the unit tests' of forebay-models.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use candle_core::{DType, Device};
use forebay::{Context, EXIT_NODE_FAULT, Error, Fault, Result};
use forebay_models::{DeviceChoice, Embedder, Weights};
use serde_json::{Value, json};

use crate::ballast::Ballast;
use crate::report::Report;

/// The tensor that is damaged.
const TENSOR: &str = "encoder.layer.0.intermediate.dense.weight";
/// The exit code for what is not the node's fault.
const REFUSED: u8 = 2;

/// Starts this program with each of what cannot work.
pub fn check(model: &Path) -> Result<Report> {
    let device = DeviceChoice::from_env()?.open()?;
    let folder = tempfile::tempdir().context("a folder for damaged models")?;
    let damaged = |name: &str, change: &dyn Fn(&mut Value)| damaged(model, &folder.path().join(name), change);
    let shape =
        damaged("shape", &|tensor| tensor["shape"].as_array_mut().into_iter().for_each(|shape| shape.reverse()))?;
    let kind = damaged("type", &|tensor| tensor["dtype"] = json!("I32"))?;

    let mut report = Report::new("bad");
    refused(&mut report, "weights of the wrong shape", &first(&shape), &[], REFUSED, TENSOR)?;
    refused(&mut report, "weights of the wrong type", &first(&kind), &[], REFUSED, TENSOR)?;
    refused(&mut report, "no weights", &first(&folder.path().join("none")), &[], REFUSED, "does not exist")?;
    let nonsense = [("FOREBAY_DEVICE", "gpu")];
    refused(&mut report, "a device that is none", &["device".into()], &nonsense, REFUSED, "is no device")?;
    if !device.is_cuda() {
        report.figure("left_out", "what needs a card to go wrong");
        return Ok(report);
    }
    let absent = [("FOREBAY_DEVICE", "cuda:99")];
    refused(&mut report, "a card that is not there", &["device".into()], &absent, EXIT_NODE_FAULT, "there is no card")?;
    let hidden = [("CUDA_VISIBLE_DEVICES", ""), ("FOREBAY_DEVICE", "cuda:0")];
    refused(&mut report, "cards that are hidden", &["device".into()], &hidden, EXIT_NODE_FAULT, "card")?;
    full(&mut report, model, &device)?;
    Ok(report)
}

/// A card with less free than the weights need: the one start that is made here, where the memory was taken.
fn full(report: &mut Report, model: &Path, device: &Device) -> Result<()> {
    let weights = Weights::dir(model)?;
    let ballast = Ballast::leaving(weights.bytes(DType::F16) / 2, device)?;
    report.figure("left_bytes", ballast.left());
    let (fatal, said) = match Embedder::load(&weights, device) {
        Ok(_) => (false, "it was loaded".to_owned()),
        Err(why) => (why.fault() == Fault::Fatal, why.to_string()),
    };
    let well = said.contains("too little memory");
    report.check("too little memory: the node's fault", fatal, fatal, format_args!("exit code {EXIT_NODE_FAULT}"));
    report.check("too little memory: message", well, said, "`too little memory`");
    Ok(())
}

fn first(model: &Path) -> Vec<PathBuf> {
    vec!["first".into(), "--model".into(), model.to_owned()]
}

fn refused(
    report: &mut Report,
    what: &str,
    arguments: &[PathBuf],
    environment: &[(&str, &str)],
    code: u8,
    word: &str,
) -> Result<()> {
    let mut program = Command::new(std::env::current_exe()?);
    program.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
    let ended = program.output().with_context(|| format!("starting this program for {what}"))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    let (found, said) = (ended.status.code(), said.trim().to_owned());
    report.check(format_args!("{what}: exit code"), found == Some(i32::from(code)), found, code);
    let well = said.contains(word) && !said.contains("panicked");
    report.check(format_args!("{what}: message"), well, said, format_args!("`{word}`, and no panic"));
    Ok(())
}

/// A copy of the model whose description of one tensor was changed.
fn damaged(model: &Path, to: &Path, change: &dyn Fn(&mut Value)) -> Result<PathBuf> {
    fs::create_dir(to)?;
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(model.join(name), to.join(name)).with_context(|| format!("copying {name}"))?;
    }
    let whole = fs::read(model.join("model.safetensors"))?;
    let unreadable = || Error::failed(format!("{} is no model of `gpu-check model`", model.display()));
    let (length, rest) = whole.split_first_chunk::<8>().ok_or_else(unreadable)?;
    let (header, data) = rest.split_at_checked(u64::from_le_bytes(*length) as usize).ok_or_else(unreadable)?;
    let mut header: Value = serde_json::from_slice(header)?;
    change(header.get_mut(TENSOR).ok_or_else(unreadable)?);
    let header = header.to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
    fs::write(to.join("model.safetensors"), bytes)?;
    Ok(to.to_owned())
}
