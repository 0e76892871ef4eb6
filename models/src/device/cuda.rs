//! The calls to NVIDIA's driver that are made before candle makes any, and the only unsafe code about devices.
//!
//! Owns the loaded libraries for the life of the process. It promises an error and no panic for whatever is missing, where
//! candle's own loading panics. It judges nothing: `card` does.

#![allow(unsafe_code, reason = "a library that is loaded when the program runs has no safe interface")]

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

use libloading::Library;

use super::unusable::{DRIVER, Unusable};

type Status = c_int;
type Handle = *mut c_void;

const SUCCESS: Status = 0;
const NO_DEVICE: Status = 100;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
const RELEASE_THRESHOLD: c_int = 4;
const RESERVED: c_int = 5;
const USED: c_int = 7;

/// The driver, and what of it is called.
pub(super) struct Driver {
    version: c_int,
    error_name: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
    count: unsafe extern "C" fn(*mut c_int) -> Status,
    device: unsafe extern "C" fn(*mut c_int, c_int) -> Status,
    name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status,
    attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status,
    total: unsafe extern "C" fn(*mut usize, c_int) -> Status,
    retain: unsafe extern "C" fn(*mut Handle, c_int) -> Status,
    release: unsafe extern "C" fn(c_int) -> Status,
    push: unsafe extern "C" fn(Handle) -> Status,
    pop: unsafe extern "C" fn(*mut Handle) -> Status,
    memory: unsafe extern "C" fn(*mut usize, *mut usize) -> Status,
    pool: unsafe extern "C" fn(*mut Handle, c_int) -> Status,
    pool_get: unsafe extern "C" fn(Handle, c_int, *mut c_void) -> Status,
    pool_set: unsafe extern "C" fn(Handle, c_int, *mut c_void) -> Status,
    // Last: the functions are of no use without it.
    _library: Library,
}

/// The driver, loaded and started once. A library belongs to the whole process, hence the static; a failure is not kept.
pub(super) fn driver() -> Result<&'static Driver, Unusable> {
    static LOADED: OnceLock<Driver> = OnceLock::new();
    match LOADED.get() {
        Some(driver) => Ok(driver),
        None => Driver::load().map(|driver| LOADED.get_or_init(|| driver)),
    }
}

/// Loads a library of CUDA's and keeps it for the life of the process, so that candle finds it there.
pub(super) fn keep_library(stem: &str, name: &'static str) -> Result<(), Unusable> {
    let library = open(stem, name).map_err(|why| Unusable::NoLibrary { name, why })?;
    std::mem::forget(library);
    Ok(())
}

/// Opens a card as candle's device, with a stream of its own.
#[cfg(feature = "cuda")]
pub(super) fn open_device(number: usize) -> candle_core::Result<candle_core::Device> {
    // Not `new_cuda`, whose stream is another one on every thread, with no order between them.
    let device = candle_core::Device::new_cuda_with_stream(number)?;
    // SAFETY: tracking orders uses of one tensor on several streams. This device has one stream, the same from every
    // thread, and whoever makes another one orders it by events of his own.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}

/// Tries the names that candle's loading tries, in its order, so that both get the same file. The error is that of `name`.
fn open(stem: &str, name: &str) -> Result<Library, String> {
    let endings = ["", ".13", ".12", ".11", ".10", ".9", ".1"];
    // SAFETY: loading runs the library's own start-up code. These are NVIDIA's libraries, which are made to be loaded so;
    // that the loader's path leads to them and to nothing else is for whoever sets that path.
    let load = |file: &str| unsafe { Library::new(file) };
    match endings.iter().find_map(|ending| load(&format!("{stem}.so{ending}")).ok()) {
        Some(library) => Ok(library),
        // The loader's own words are behind the error.
        None => load(name).map_err(|why| why.source().map_or_else(|| why.to_string(), ToString::to_string)),
    }
}

/// A function of the driver.
///
/// # Safety
/// `F` must be the type of the C function of this name.
unsafe fn function<F: Copy>(library: &Library, name: &'static str) -> Result<F, Unusable> {
    // SAFETY: the type is as the caller promises.
    let found = unsafe { library.get::<F>(name) };
    found.map(|symbol| *symbol).map_err(|_| Unusable::NoFunction { name })
}

impl Driver {
    fn load() -> Result<Self, Unusable> {
        let library = open("libcuda", "libcuda.so.1").map_err(|why| Unusable::NoDriver { why })?;
        // SAFETY: all types of functions here are those of cuda.h of CUDA 13.0, and the first of them is as old as CUDA;
        // the others are taken from a driver that says that it is of 13.0 or later. Every pointer that is handed over
        // leads to a local variable of the type that the function writes.
        unsafe {
            let version: unsafe extern "C" fn(*mut c_int) -> Status = function(&library, "cuDriverGetVersion")?;
            let mut serves = 0;
            let answered = version(&mut serves);
            if answered != SUCCESS {
                return Err(Unusable::Call { name: "cuDriverGetVersion", status: answered.to_string() });
            }
            if serves < DRIVER {
                return Err(Unusable::OldDriver { version: serves });
            }
            let init: unsafe extern "C" fn(c_uint) -> Status = function(&library, "cuInit")?;
            let driver = Self {
                version: serves,
                error_name: function(&library, "cuGetErrorName")?,
                count: function(&library, "cuDeviceGetCount")?,
                device: function(&library, "cuDeviceGet")?,
                name: function(&library, "cuDeviceGetName")?,
                attribute: function(&library, "cuDeviceGetAttribute")?,
                total: function(&library, "cuDeviceTotalMem_v2")?,
                retain: function(&library, "cuDevicePrimaryCtxRetain")?,
                release: function(&library, "cuDevicePrimaryCtxRelease_v2")?,
                push: function(&library, "cuCtxPushCurrent_v2")?,
                pop: function(&library, "cuCtxPopCurrent_v2")?,
                memory: function(&library, "cuMemGetInfo_v2")?,
                pool: function(&library, "cuDeviceGetDefaultMemPool")?,
                pool_get: function(&library, "cuMemPoolGetAttribute")?,
                pool_set: function(&library, "cuMemPoolSetAttribute")?,
                _library: library,
            };
            match init(0) {
                NO_DEVICE => Err(Unusable::NoCard),
                answered => driver.check("cuInit", answered).map(|()| driver),
            }
        }
    }

    /// The CUDA version that it serves, 13000 for 13.0.
    pub(super) fn version(&self) -> i32 {
        self.version
    }

    /// How many cards there are.
    pub(super) fn count(&self) -> Result<usize, Unusable> {
        let mut count = 0;
        // SAFETY: as in `load`.
        self.check("cuDeviceGetCount", unsafe { (self.count)(&mut count) })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The driver's handle of a card.
    pub(super) fn device(&self, number: usize) -> Result<c_int, Unusable> {
        let mut device = 0;
        // SAFETY: as in `load`; a number without a card is an error.
        let answered = unsafe { (self.device)(&mut device, c_int::try_from(number).unwrap_or(c_int::MAX)) };
        self.check("cuDeviceGet", answered)?;
        Ok(device)
    }

    /// What the card is called.
    pub(super) fn name(&self, device: c_int) -> Result<String, Unusable> {
        let mut name: [c_char; 256] = [0; 256];
        // SAFETY: as in `load`, and it writes no more than it is told that there is room for, a zero at the end.
        self.check("cuDeviceGetName", unsafe { (self.name)(name.as_mut_ptr(), 256, device) })?;
        name[255] = 0;
        // SAFETY: a zero is there, and the array outlives the borrow.
        Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// Compute capability: major, minor.
    pub(super) fn capability(&self, device: c_int) -> Result<(i32, i32), Unusable> {
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: as in `load`.
            self.check("cuDeviceGetAttribute", unsafe { (self.attribute)(&mut value, which, device) })?;
            Ok(value)
        };
        Ok((attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?))
    }

    /// The card's whole memory, in bytes.
    pub(super) fn total(&self, device: c_int) -> Result<u64, Unusable> {
        let mut bytes = 0;
        // SAFETY: as in `load`.
        self.check("cuDeviceTotalMem", unsafe { (self.total)(&mut bytes, device) })?;
        Ok(bytes as u64)
    }

    /// Bytes that are free on the card, whoever has the others. Makes this process's context on the card, if there is none.
    pub(super) fn free(&self, device: c_int) -> Result<u64, Unusable> {
        let (mut context, mut free, mut total) = (null_mut(), 0, 0);
        // SAFETY: as in `load`. What is retained is released and what is pushed is popped, so this thread and the card's
        // context are left as they were.
        unsafe {
            self.check("cuDevicePrimaryCtxRetain", (self.retain)(&mut context, device))?;
            let mut answered = (self.push)(context);
            if answered == SUCCESS {
                answered = (self.memory)(&mut free, &mut total);
                (self.pop)(&mut context);
            }
            (self.release)(device);
            self.check("cuMemGetInfo", answered)?;
        }
        Ok(free as u64)
    }

    /// Bytes that this process's pool on the card keeps and does not use; none where the card has no pools.
    pub(super) fn kept(&self, device: c_int) -> u64 {
        let Some(pool) = self.pool(device) else { return 0 };
        let value = |which| {
            let mut bytes = 0u64;
            // SAFETY: as in `load`; these attributes are of 64 bits.
            let answered = unsafe { (self.pool_get)(pool, which, (&raw mut bytes).cast()) };
            if answered == SUCCESS { bytes } else { 0 }
        };
        value(RESERVED).saturating_sub(value(USED))
    }

    /// Has the pool keep what it has got: by default each wait for the card gives all that is not in use back to the
    /// driver, to be asked for again at once.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only an open card needs it"))]
    pub(super) fn keep_pool(&self, device: c_int) -> Result<(), Unusable> {
        let Some(pool) = self.pool(device) else { return Ok(()) };
        let mut all = u64::MAX;
        // SAFETY: as in `load`; this attribute is of 64 bits.
        let answered = unsafe { (self.pool_set)(pool, RELEASE_THRESHOLD, (&raw mut all).cast()) };
        self.check("cuMemPoolSetAttribute", answered)
    }

    fn pool(&self, device: c_int) -> Option<Handle> {
        let mut pool = null_mut();
        // SAFETY: as in `load`.
        let answered = unsafe { (self.pool)(&mut pool, device) };
        (answered == SUCCESS).then_some(pool)
    }

    fn check(&self, name: &'static str, status: Status) -> Result<(), Unusable> {
        if status == SUCCESS {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: as in `load`; the name is a constant of the library's, or null.
        let known = unsafe { (self.error_name)(status, &mut text) == SUCCESS && !text.is_null() };
        let status = match known {
            // SAFETY: as above.
            true => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
            false => format!("error {status}"),
        };
        Err(Unusable::Call { name, status })
    }
}
