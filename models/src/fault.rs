//! Whose fault a failure on a device is: one table, for every error that candle may give.
//!
//! Owns the table, whose keys are the names that NVIDIA gives its errors, so it needs no CUDA to be built or tested. It
//! promises that whatever is not in it stays as it was. What becomes of a batch or a process is the engine's to decide.

use candle_core::Error as Candle;
use forebay::{Error, Fault, OutOfMemory};

/// What a named error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Less at once may fit. The card is well, and so is this process.
    TooMuch,
    /// This process's context on the card is lost, or the card is: each call fails from now on.
    Lost,
    /// This program's kernels are not for this card or this driver.
    NoKernels,
}

/// Errors by their names. What has none of them is `Failed`, as any other error: a shape or type that does not fit, a
/// file that cannot be read, a call with wrong values.
const MEANINGS: [(&str, Meaning); 56] = {
    use Meaning::{Lost, NoKernels, TooMuch};
    [
        ("CUDA_ERROR_OUT_OF_MEMORY", TooMuch),
        ("CUBLAS_STATUS_ALLOC_FAILED", TooMuch),
        ("CURAND_STATUS_ALLOCATION_FAILED", TooMuch),
        // A kernel did what it must not: nothing passes in this context any more.
        ("CUDA_ERROR_ILLEGAL_ADDRESS", Lost),
        ("CUDA_ERROR_LAUNCH_TIMEOUT", Lost),
        ("CUDA_ERROR_ASSERT", Lost),
        ("CUDA_ERROR_HARDWARE_STACK_ERROR", Lost),
        ("CUDA_ERROR_ILLEGAL_INSTRUCTION", Lost),
        ("CUDA_ERROR_MISALIGNED_ADDRESS", Lost),
        ("CUDA_ERROR_INVALID_ADDRESS_SPACE", Lost),
        ("CUDA_ERROR_INVALID_PC", Lost),
        ("CUDA_ERROR_LAUNCH_FAILED", Lost),
        ("CUDA_ERROR_TENSOR_MEMORY_LEAK", Lost),
        ("CURAND_STATUS_LAUNCH_FAILURE", Lost),
        ("CURAND_STATUS_PREEXISTING_FAILURE", Lost),
        // The hardware.
        ("CUDA_ERROR_ECC_UNCORRECTABLE", Lost),
        ("CUDA_ERROR_NVLINK_UNCORRECTABLE", Lost),
        ("CUDA_ERROR_CONTAINED", Lost),
        ("CUDA_ERROR_EXTERNAL_DEVICE", Lost),
        ("CUDA_ERROR_UNKNOWN", Lost),
        // The card is gone, was never there, or is not for us.
        ("CUDA_ERROR_DEVICE_UNAVAILABLE", Lost),
        ("CUDA_ERROR_NO_DEVICE", Lost),
        ("CUDA_ERROR_INVALID_DEVICE", Lost),
        ("CUDA_ERROR_DEVICE_NOT_LICENSED", Lost),
        ("CUDA_ERROR_NOT_INITIALIZED", Lost),
        ("CUDA_ERROR_DEINITIALIZED", Lost),
        ("CUDA_ERROR_INVALID_CONTEXT", Lost),
        ("CUDA_ERROR_CONTEXT_IS_DESTROYED", Lost),
        ("CUDA_ERROR_STREAM_DETACHED", Lost),
        ("CUDA_ERROR_KEY_ROTATION", Lost),
        // The machine, its driver, or whatever shares the card out.
        ("CUDA_ERROR_OPERATING_SYSTEM", Lost),
        ("CUDA_ERROR_SYSTEM_NOT_READY", Lost),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", Lost),
        ("CUDA_ERROR_FABRIC_NOT_READY", Lost),
        ("CUDA_ERROR_STUB_LIBRARY", Lost),
        ("CUDA_ERROR_MPS_CONNECTION_FAILED", Lost),
        ("CUDA_ERROR_MPS_RPC_FAILURE", Lost),
        ("CUDA_ERROR_MPS_SERVER_NOT_READY", Lost),
        ("CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", Lost),
        ("CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", Lost),
        ("CUDA_ERROR_MPS_CLIENT_TERMINATED", Lost),
        ("CUDA_ERROR_NO_BINARY_FOR_GPU", NoKernels),
        ("CUDA_ERROR_INVALID_IMAGE", NoKernels),
        ("CUDA_ERROR_INVALID_PTX", NoKernels),
        ("CUDA_ERROR_INVALID_SOURCE", NoKernels),
        ("CUDA_ERROR_NOT_FOUND", NoKernels),
        ("CUDA_ERROR_FUNCTION_NOT_LOADED", NoKernels),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", NoKernels),
        ("CUDA_ERROR_JIT_COMPILER_NOT_FOUND", NoKernels),
        ("CUDA_ERROR_JIT_COMPILATION_DISABLED", NoKernels),
        ("CUDA_ERROR_INSUFFICIENT_LOADER_VERSION", NoKernels),
        ("CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", NoKernels),
        ("CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", NoKernels),
        ("CUBLAS_STATUS_ARCH_MISMATCH", NoKernels),
        ("CURAND_STATUS_ARCH_MISMATCH", NoKernels),
        ("CURAND_STATUS_VERSION_MISMATCH", NoKernels),
    ]
};

/// Says whose fault a failure on a device is. Takes candle's errors, and those that became forebay's by `?`.
///
/// | what failed | fault |
/// |---|---|
/// | the device's memory did not suffice | `Failed`, with [`OutOfMemory`] to be found in it: less at once may fit |
/// | the card, its driver, or this process's context on it, for good | `Fatal`: the process ends with code 70 |
/// | this program has no kernels for the card or the driver | `Fatal`, with what to build |
/// | anything else, such as a shape or type that does not fit | as it was, `Failed` where nobody said otherwise |
///
/// Work on a card is done after it is asked for, so an error may show at a later and innocent call.
pub fn classify(error: impl Into<Error>) -> Error {
    let error = error.into();
    if error.fault() == Fault::Fatal {
        return error;
    }
    let fatal = |error: Error, why: &str| error.with_fault(Fault::Fatal).context(why);
    match error.find::<Candle>().and_then(meaning) {
        None => error,
        Some(Meaning::TooMuch) => Error::new(Fault::Failed, OutOfMemory::new(error)),
        Some(Meaning::Lost) => {
            fatal(error, "the card is lost to this process; work goes on in a new one, or elsewhere")
        }
        Some(Meaning::NoKernels) => fatal(
            error,
            "this program has no kernels for the card or its driver; build it for the card (scripts/cuda-build), and run \
             it with driver 580 or later",
        ),
    }
}

/// What candle's error means, whatever is wrapped around it.
fn meaning(error: &Candle) -> Option<Meaning> {
    match error {
        Candle::WithBacktrace { inner, .. } | Candle::Context { inner, .. } | Candle::WithPath { inner, .. } => {
            meaning(inner)
        }
        Candle::WrappedContext { wrapped, .. } => match wrapped.downcast_ref::<Candle>() {
            Some(inner) => meaning(inner),
            None => named(&wrapped.to_string()),
        },
        Candle::Cuda(cause) => named(&name(cause.as_ref())),
        // What waiting for the device gives: text, with the name in it.
        Candle::Wrapped(text) => named(&text.to_string()),
        _ => None,
    }
}

/// The row whose name stands in a text.
fn named(text: &str) -> Option<Meaning> {
    let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.find_map(|word| MEANINGS.iter().find(|(name, _)| *name == word)).map(|(_, meaning)| *meaning)
}

type Cause = dyn std::error::Error + Send + Sync;

/// A text with the error's name in it. Of the driver's errors it takes no more than that: their full text asks the driver.
#[cfg(feature = "cuda")]
fn name(cause: &Cause) -> String {
    use candle_core::cuda_backend::CudaError;
    match cause.downcast_ref::<CudaError>() {
        Some(CudaError::Cuda(cause) | CudaError::Load { cuda: cause, .. }) => format!("{:?}", cause.0),
        Some(CudaError::Cublas(cause)) => format!("{:?}", cause.0),
        Some(CudaError::Curand(cause)) => format!("{:?}", cause.0),
        _ => cause.to_string(),
    }
}

#[cfg(not(feature = "cuda"))]
fn name(cause: &Cause) -> String {
    cause.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An error as candle's CUDA backend makes them, with this text.
    fn cuda(text: &str) -> Candle {
        Candle::Cuda(std::io::Error::other(text.to_owned()).into())
    }

    fn out_of_memory(error: &Error) -> bool {
        error.find::<OutOfMemory>().is_some()
    }

    #[test]
    fn every_row_is_found_by_its_name() {
        for (name, meaning) in MEANINGS {
            for text in
                [format!("DriverError({name}, \"some words\")"), format!("CublasError({name})"), name.to_owned()]
            {
                let error = classify(cuda(&text));
                let fault = if meaning == Meaning::TooMuch { Fault::Failed } else { Fault::Fatal };
                assert_eq!(error.fault(), fault, "{error}");
                assert_eq!(out_of_memory(&error), meaning == Meaning::TooMuch, "{error}");
                assert_eq!(error.to_string().contains("scripts/cuda-build"), meaning == Meaning::NoKernels, "{error}");
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }

    /// A row that is taken out or given another meaning by mistake is missed here.
    #[test]
    fn what_counts_most_means_what_it_should() {
        for (name, meaning) in [
            ("CUDA_ERROR_OUT_OF_MEMORY", Some(Meaning::TooMuch)),
            ("CUBLAS_STATUS_ALLOC_FAILED", Some(Meaning::TooMuch)),
            ("CUDA_ERROR_ILLEGAL_ADDRESS", Some(Meaning::Lost)),
            ("CUDA_ERROR_LAUNCH_FAILED", Some(Meaning::Lost)),
            ("CUDA_ERROR_ECC_UNCORRECTABLE", Some(Meaning::Lost)),
            ("CUDA_ERROR_DEVICE_UNAVAILABLE", Some(Meaning::Lost)),
            ("CUDA_ERROR_NO_BINARY_FOR_GPU", Some(Meaning::NoKernels)),
            ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", Some(Meaning::NoKernels)),
            // These leave the card well, and a smaller or another job may pass.
            ("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", None),
            ("CUDA_ERROR_INVALID_VALUE", None),
            ("CUBLAS_STATUS_INVALID_VALUE", None),
            // What really failed shows at the next call.
            ("CUBLAS_STATUS_EXECUTION_FAILED", None),
            // No name is found within a longer one.
            ("CUDA_ERROR_OUT_OF_MEMORY_BUT_NOT_QUITE", None),
        ] {
            assert_eq!(named(name), meaning, "{name}");
        }
    }

    #[test]
    fn whatever_is_wrapped_around_it_is_looked_through() {
        let text = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        for error in [
            cuda(text),
            cuda(text).context("layer 3"),
            cuda(text).with_path("model.safetensors"),
            cuda(text).with_path("model.safetensors").context("loading"),
            Candle::WithBacktrace { inner: Box::new(cuda(text).context("layer 3")), backtrace },
            Candle::WrappedContext { wrapped: Box::new(cuda(text)), context: "layer 3".to_owned() },
            // As `Device::synchronize` says it.
            Candle::wrap(text),
        ] {
            let said = error.to_string();
            let error = classify(error);
            assert!(out_of_memory(&error) && error.fault() == Fault::Failed, "{said}");
            assert!(error.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY"), "{error}");
        }
        let carried = Error::from(cuda(text)).context("batch of 64");
        let error = classify(carried);
        assert!(out_of_memory(&error) && error.to_string().starts_with("batch of 64"), "{error}");
    }

    #[test]
    fn what_is_not_the_cards_stays_as_it_was() {
        let a = candle_core::Tensor::zeros((2, 3), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let shapes = a.matmul(&a).unwrap_err();
        let types = (&a + a.to_dtype(candle_core::DType::F16).unwrap()).unwrap_err();
        let words = Candle::Msg("the text CUDA_ERROR_ILLEGAL_ADDRESS was to be embedded".to_owned());
        for error in [shapes, types, words, Candle::UnwrapNone, cuda("missing kernel 'cast'")] {
            let said = error.to_string();
            let error = classify(error);
            assert_eq!((error.fault(), error.to_string()), (Fault::Failed, said));
            assert!(!out_of_memory(&error));
        }
        assert_eq!(classify(Error::invalid("no tokens")).fault(), Fault::Invalid);
        assert_eq!(classify(Error::from(Candle::UnwrapNone).with_fault(Fault::Invalid)).fault(), Fault::Invalid);
    }

    #[test]
    fn what_was_judged_is_not_judged_again() {
        for name in ["CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_OUT_OF_MEMORY"] {
            let once = classify(cuda(name));
            let twice = classify(once.clone());
            assert_eq!((twice.fault(), twice.to_string()), (once.fault(), once.to_string()));
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn errors_of_cuda_are_found_by_their_types() {
        use candle_core::cuda_backend::CudaError;
        use candle_core::cuda_backend::cudarc::cublas::{result::CublasError, sys::cublasStatus_t};
        use candle_core::cuda_backend::cudarc::driver::{DriverError, sys::CUresult};
        let driver = |status| CudaError::Cuda(DriverError(status));
        let load = CudaError::Load {
            cuda: DriverError(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION),
            module_name: "reduce".to_owned(),
        };
        let alloc = CudaError::Cublas(CublasError(cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED));
        for (error, expected) in [
            (driver(CUresult::CUDA_ERROR_OUT_OF_MEMORY), Some(Meaning::TooMuch)),
            (alloc, Some(Meaning::TooMuch)),
            (driver(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS), Some(Meaning::Lost)),
            (load, Some(Meaning::NoKernels)),
            (driver(CUresult::CUDA_ERROR_INVALID_VALUE), None),
            (CudaError::MissingKernel { module_name: "cast".to_owned() }, None),
        ] {
            assert_eq!(meaning(&error.into()), expected);
        }
    }
}
