//! Makes PTX of the CUDA kernels, where the feature `cuda` is on; does nothing otherwise.
//!
//! Promises `OUT_DIR/encoder.ptx` for compute capability 8.0, which the driver translates for any newer card. Needs
//! nvcc but no card: `NVCC`, or else the one in `CUDA_HOME`, or else the one on the path. It does not ask for
//! `--use_fast_math`: the kernels name each instruction that may be approximate.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const SOURCE: &str = "kernels/encoder.cu";
const WANTED: &str = "the feature `cuda` needs nvcc of CUDA 13.0: name it in NVCC, or its toolkit in CUDA_HOME";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return ExitCode::SUCCESS;
    }
    for file in [SOURCE, "kernels/attention.cuh", "kernels/device.cuh", "kernels/rows.cuh"] {
        println!("cargo::rerun-if-changed={file}");
    }
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: this is for cargo to run")?;
    let nvcc = nvcc();
    let status = Command::new(&nvcc)
        .args(["-ptx", "-arch=compute_80", "-std=c++17", "-O3", SOURCE, "-o"])
        .arg(PathBuf::from(out).join("encoder.ptx"))
        .status()
        .map_err(|e| format!("cannot run {}: {e}; {WANTED}", nvcc.display()))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{} could not compile {SOURCE}: {status}; what it says stands above", nvcc.display())),
    }
}

fn nvcc() -> PathBuf {
    let given = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    given("NVCC").or_else(|| Some(given("CUDA_HOME")?.join("bin/nvcc"))).unwrap_or_else(|| "nvcc".into())
}
