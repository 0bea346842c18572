//! Memory of CUDA devices, through the driver's library (`libcuda.so.1`), which is loaded when it is first asked for.
//!
//! Nothing here needs CUDA to be built, or to be there: without the driver [`support`] says why, and no other function can
//! be reached. Tensors are copied to main memory and back, whole; the work that any stream of their context has been given
//! is waited for before a copy, and a copy is complete when the call returns.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use libloading::Library;

/// The driver's library, as every installation of it names it.
const NAMES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };

// The driver API's names and values, as in its header.
type Status = c_int;
type Context = *mut c_void;
type Device = c_int;
type Address = u64;

const SUCCESS: Status = 0;
const ATTRIBUTE_CONTEXT: c_int = 1;
const ATTRIBUTE_MEMORY_TYPE: c_int = 2;
const ATTRIBUTE_DEVICE_ORDINAL: c_int = 9;
const MEMORY_OF_HOST: c_uint = 1;

macro_rules! driver {
    ($($field:ident: $name:literal = fn($($argument:ty),*);)+) => {
        /// Functions of the driver. They stay valid because the library stays loaded as long as this exists.
        struct Driver {
            $($field: unsafe extern "C" fn($($argument),*) -> Status,)+
            _library: Library,
        }

        impl Driver {
            fn of(library: Library) -> Result<Self, String> {
                $(
                    // SAFETY: the driver API declares the function of this name with this signature.
                    let $field = *unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> Status>($name) }
                        .map_err(|e| format!("the CUDA driver lacks a function: {e}"))?;
                )+
                Ok(Self { $($field,)+ _library: library })
            }
        }
    };
}

driver!(
    init: b"cuInit\0" = fn(c_uint);
    error_string: b"cuGetErrorString\0" = fn(Status, *mut *const c_char);
    pointer_attribute: b"cuPointerGetAttribute\0" = fn(*mut c_void, c_int, Address);
    device_get: b"cuDeviceGet\0" = fn(*mut Device, c_int);
    primary_retain: b"cuDevicePrimaryCtxRetain\0" = fn(*mut Context, Device);
    primary_release: b"cuDevicePrimaryCtxRelease_v2\0" = fn(Device);
    push: b"cuCtxPushCurrent_v2\0" = fn(Context);
    pop: b"cuCtxPopCurrent_v2\0" = fn(*mut Context);
    synchronize: b"cuCtxSynchronize\0" = fn();
    to_host: b"cuMemcpyDtoH_v2\0" = fn(*mut c_void, Address, usize);
    to_device: b"cuMemcpyHtoD_v2\0" = fn(Address, *const c_void, usize);
);

/// Whether tensors in the memory of CUDA devices can be synchronized, else why not. That the driver is there does not mean
/// that a device is; only a tensor on one tells, because to ask the driver would spoil it for children of this process.
pub fn support() -> Result<(), String> {
    driver().map(|_| ())
}

fn driver() -> Result<&'static Driver, String> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    DRIVER.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<Driver, String> {
    let mut why = String::new();
    for name in NAMES {
        // SAFETY: what runs when it is loaded is the driver's own initialization, as in every program that uses CUDA.
        match unsafe { Library::new(*name) } {
            Ok(library) => return Driver::of(library),
            Err(e) if why.is_empty() => why = format!("the CUDA driver cannot be loaded ({e})"),
            Err(_) => {}
        }
    }
    Err(why)
}

/// Memory of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceMemory {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
}

/// A context that is this thread's until it is dropped.
struct Current<'a> {
    driver: &'a Driver,
    /// Whose primary context is held, if it is one.
    held: Option<Device>,
}

impl Driver {
    fn check(&self, what: &str, status: Status) -> Result<(), String> {
        if status == SUCCESS {
            return Ok(());
        }
        let mut text = ptr::null();
        // SAFETY: a place for a pointer to a text that is never freed.
        let known = unsafe { (self.error_string)(status, &raw mut text) } == SUCCESS && !text.is_null();
        let text = if known {
            // SAFETY: the driver says that it is a text that ends in zero.
            unsafe { CStr::from_ptr(text) }.to_string_lossy()
        } else {
            "unknown to the driver".into()
        };
        Err(format!("{what} failed: {text} (CUDA error {status})"))
    }

    fn attribute<T>(&self, which: c_int, value: &mut T, address: Address) -> Status {
        // SAFETY: the callers give a value of the type that the driver writes for this attribute.
        unsafe { (self.pointer_attribute)(ptr::from_mut(value).cast(), which, address) }
    }

    /// Makes the context of this memory the thread's.
    fn enter(&self, address: Address) -> Result<Current<'_>, String> {
        // SAFETY: takes no memory; may be called again and again.
        self.check("cuInit", unsafe { (self.init)(0) })?;
        let mut kind: c_uint = 0;
        let status = self.attribute(ATTRIBUTE_MEMORY_TYPE, &mut kind, address);
        self.check("cuPointerGetAttribute (is this the address of a CUDA device's memory?)", status)?;
        if kind == MEMORY_OF_HOST {
            return Err("it is in main memory, not on a CUDA device".to_owned());
        }
        let mut context: Context = ptr::null_mut();
        let mut held = None;
        let status = self.attribute(ATTRIBUTE_CONTEXT, &mut context, address);
        if status != SUCCESS || context.is_null() {
            // Memory of a pool, or mapped by the program itself, belongs to a device and to no context.
            let (mut ordinal, mut device): (c_int, Device) = (0, 0);
            let status = self.attribute(ATTRIBUTE_DEVICE_ORDINAL, &mut ordinal, address);
            self.check("cuPointerGetAttribute", status)?;
            // SAFETY: places for what is written, of the right types.
            self.check("cuDeviceGet", unsafe { (self.device_get)(&raw mut device, ordinal) })?;
            // SAFETY: as above.
            let status = unsafe { (self.primary_retain)(&raw mut context, device) };
            self.check("cuDevicePrimaryCtxRetain", status)?;
            held = Some(device);
        }
        // SAFETY: a context of the driver; `Current` takes it off again.
        let status = unsafe { (self.push)(context) };
        if let Err(why) = self.check("cuCtxPushCurrent", status) {
            if let Some(device) = held {
                // SAFETY: it was retained above.
                let _ = unsafe { (self.primary_release)(device) };
            }
            return Err(why);
        }
        Ok(Current { driver: self, held })
    }
}

impl Current<'_> {
    /// Waits for everything that streams of the context have been given.
    fn wait(&self) -> Result<(), String> {
        // SAFETY: a context is current.
        self.driver.check("cuCtxSynchronize", unsafe { (self.driver.synchronize)() })
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut context = ptr::null_mut();
        // SAFETY: takes off what `enter` has put on, in this thread.
        let _ = unsafe { (self.driver.pop)(&raw mut context) };
        if let Some(device) = self.held {
            // SAFETY: it was retained by `enter`.
            let _ = unsafe { (self.driver.primary_release)(device) };
        }
    }
}

/// The bytes of a device's memory, when everything that the device has been told to do before is done.
pub(crate) fn copy_to_host(from: DeviceMemory) -> Result<Vec<u8>, String> {
    let driver = driver()?;
    let mut bytes = room(from.bytes)?;
    if from.bytes == 0 {
        return Ok(bytes);
    }
    let current = driver.enter(from.address)?;
    current.wait()?;
    // SAFETY: the target has room for so much; the driver checks the source.
    let status = unsafe { (driver.to_host)(bytes.as_mut_ptr().cast(), from.address, from.bytes) };
    driver.check("copying it to main memory", status)?;
    // SAFETY: the driver has written all of them.
    unsafe { bytes.set_len(from.bytes) };
    Ok(bytes)
}

/// Memory for so many bytes: a wrong size must not end the process.
pub(crate) fn room(bytes: usize) -> Result<Vec<u8>, String> {
    let mut room = Vec::new();
    room.try_reserve_exact(bytes).map_err(|e| format!("there is no room for {bytes} bytes: {e}"))?;
    Ok(room)
}

/// Writes to a device's memory, and waits until it is there for every stream.
///
/// # Safety
/// The memory must be the caller's to write.
pub(crate) unsafe fn copy_to_device(to: DeviceMemory, bytes: &[u8]) -> Result<(), String> {
    debug_assert_eq!(to.bytes, bytes.len());
    if bytes.is_empty() {
        return Ok(());
    }
    let driver = driver()?;
    let current = driver.enter(to.address)?;
    current.wait()?;
    // SAFETY: the source is as long as it says; the driver checks that the target is memory of a device.
    let status = unsafe { (driver.to_device)(to.address, bytes.as_ptr().cast(), bytes.len()) };
    driver.check("copying it to the device", status)?;
    current.wait()
}
