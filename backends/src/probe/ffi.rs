//! Calls into libraries that are found at run time: the one place where that is unsafe.
//!
//! A function is looked up by name at each call (some hundred nanoseconds), so a library that lacks
//! one only lacks the values it gives. Every out parameter is a [`Block`]. Invariant: after a call
//! either the status was good and the guard behind the block is whole, or the caller gets a
//! [`Fault`]. A library stays loaded to the end of the process: those of vendors have threads and
//! exit handlers of their own. What it does not do: know what a status means.

#![expect(unsafe_code, reason = "calls into the vendors' libraries")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::{Library, Symbol};

use super::block::Block;

/// What a call gave instead of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The library has no such function.
    Missing(&'static str),
    /// It returned this status.
    Status(&'static str, i32),
    /// It wrote more than the structure has.
    Overrun(&'static str),
}

/// Arguments that the functions of the vendors have, in order. `Out` is the block.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arguments {
    /// `f(out)`
    Out,
    /// `f(a, out)`
    IntOut(i32),
    /// `f(a, b, out)`
    IntIntOut(i32, i32),
    /// `f(a, b, c, out)`
    IntIntIntOut(i32, i32, i32),
    /// `f(out, a)`
    OutInt(i32),
    /// `f(out, a, b)`
    OutIntInt(i32, i32),
}

/// A library.
#[derive(Debug)]
pub(super) struct Foreign {
    library: ManuallyDrop<Library>,
    path: PathBuf,
}

type Status = c_int;

impl Foreign {
    /// Loads a library by its path, or by its name from where the loader looks.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        Ok(Self {
            library: ManuallyDrop::new(load(path).map_err(|error| loader_message(&error))?),
            path: path.to_owned(),
        })
    }

    /// What was loaded.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Has it this function?
    pub(super) fn has(&self, name: &str) -> bool {
        self.symbol::<*const c_void>(name).is_some()
    }

    /// `F` must be the type of a pointer or of a function pointer; whether it is the right one
    /// shows at the call.
    fn symbol<F>(&self, name: &str) -> Option<Symbol<'_, F>> {
        // SAFETY: looking a symbol up runs no code; the calls below say why their types are right.
        unsafe { self.library.get(name.as_bytes()) }.ok()
    }

    /// Calls `f()`.
    pub(super) fn call(&self, name: &'static str) -> Result<(), Fault> {
        type F = unsafe extern "C" fn() -> Status;
        let f = self.symbol::<F>(name).ok_or(Fault::Missing(name))?;
        // SAFETY: the vendor documents the function without parameters and with a status.
        check(name, unsafe { f() })
    }

    /// Calls `f(a)`.
    pub(super) fn call_int(&self, name: &'static str, a: i32) -> Result<(), Fault> {
        type F = unsafe extern "C" fn(c_int) -> Status;
        let f = self.symbol::<F>(name).ok_or(Fault::Missing(name))?;
        // SAFETY: the vendor documents the function with one 32-bit parameter and a status.
        check(name, unsafe { f(a) })
    }

    /// Calls a function that fills a structure of `size` bytes.
    pub(super) fn fill(
        &self,
        name: &'static str,
        arguments: Arguments,
        size: usize,
    ) -> Result<Block, Fault> {
        let mut block = Block::new(size);
        self.fill_block(name, arguments, &mut block)?;
        Ok(block)
    }

    /// The same into a block that the caller has prepared.
    pub(super) fn fill_block(
        &self,
        name: &'static str,
        arguments: Arguments,
        block: &mut Block,
    ) -> Result<(), Fault> {
        let status = self.status(name, arguments, block.pointer())?;
        if !block.is_intact() {
            return Err(Fault::Overrun(name));
        }
        check(name, status)
    }

    fn status(
        &self,
        name: &'static str,
        arguments: Arguments,
        out: *mut c_void,
    ) -> Result<Status, Fault> {
        type Out = unsafe extern "C" fn(*mut c_void) -> Status;
        type IntOut = unsafe extern "C" fn(c_int, *mut c_void) -> Status;
        type IntIntOut = unsafe extern "C" fn(c_int, c_int, *mut c_void) -> Status;
        type IntIntIntOut = unsafe extern "C" fn(c_int, c_int, c_int, *mut c_void) -> Status;
        type OutInt = unsafe extern "C" fn(*mut c_void, c_int) -> Status;
        type OutIntInt = unsafe extern "C" fn(*mut c_void, c_int, c_int) -> Status;
        let missing = Fault::Missing(name);
        // SAFETY: `out` points to a block with thousands of bytes of room behind what the vendor
        // documents for the function, eight-aligned and alive during the call; the other parameters
        // are 32-bit integers or enumerations, which are passed alike. A null is never given.
        let status = unsafe {
            match arguments {
                Arguments::Out => self.symbol::<Out>(name).ok_or(missing)?(out),
                Arguments::IntOut(a) => self.symbol::<IntOut>(name).ok_or(missing)?(a, out),
                Arguments::IntIntOut(a, b) => {
                    self.symbol::<IntIntOut>(name).ok_or(missing)?(a, b, out)
                }
                Arguments::IntIntIntOut(a, b, c) => {
                    self.symbol::<IntIntIntOut>(name).ok_or(missing)?(a, b, c, out)
                }
                Arguments::OutInt(a) => self.symbol::<OutInt>(name).ok_or(missing)?(out, a),
                Arguments::OutIntInt(a, b) => {
                    self.symbol::<OutIntInt>(name).ok_or(missing)?(out, a, b)
                }
            }
        };
        Ok(status)
    }

    /// Calls `f(first, second, length)`: two outs, of which one is a list with room for `length`
    /// integers.
    pub(super) fn fill_list(
        &self,
        name: &'static str,
        first: &mut Block,
        second: &mut Block,
        length: i32,
    ) -> Result<(), Fault> {
        type F = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> Status;
        let f = self.symbol::<F>(name).ok_or(Fault::Missing(name))?;
        // SAFETY: both point to blocks as in `status`; the callers make the list's block hold
        // `length` integers.
        let status = unsafe { f(first.pointer(), second.pointer(), length) };
        if !first.is_intact() || !second.is_intact() {
            return Err(Fault::Overrun(name));
        }
        check(name, status)
    }

    /// Calls `const char *f()`, whose text belongs to the library.
    pub(super) fn text_of(&self, name: &'static str) -> Result<String, Fault> {
        type F = unsafe extern "C" fn() -> *const c_char;
        let f = self.symbol::<F>(name).ok_or(Fault::Missing(name))?;
        // SAFETY: the vendor documents the function without parameters; it gives null or a
        // terminated text, which is copied before anything else is called.
        let text = unsafe {
            let text = f();
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        text.ok_or(Fault::Status(name, 0))
    }

    /// Calls `const char *f(a)`, whose text belongs to the library.
    pub(super) fn text(&self, name: &'static str, a: i32) -> Result<String, Fault> {
        type F = unsafe extern "C" fn(c_int) -> *const c_char;
        let f = self.symbol::<F>(name).ok_or(Fault::Missing(name))?;
        // SAFETY: the vendor documents the function with one 32-bit parameter; it gives null or a
        // terminated text, which is copied before anything else is called.
        let text = unsafe {
            let text = f(a);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        text.ok_or(Fault::Status(name, 0))
    }
}

fn check(name: &'static str, status: Status) -> Result<(), Fault> {
    match status {
        0 => Ok(()),
        status => Err(Fault::Status(name, status)),
    }
}

/// Cambricon's library looks up its own symbols globally, and the others do not mind.
#[cfg(unix)]
fn load(path: &Path) -> Result<Library, libloading::Error> {
    use libloading::os::unix::{Library as Unix, RTLD_GLOBAL, RTLD_LAZY};
    // SAFETY: loading runs the library's initialisers; that the user's own vendor library may run
    // them is what looking for it means.
    unsafe { Unix::open(Some(path), RTLD_LAZY | RTLD_GLOBAL) }.map(Library::from)
}

#[cfg(not(unix))]
fn load(path: &Path) -> Result<Library, libloading::Error> {
    // SAFETY: as above.
    unsafe { Library::new(path) }
}

pub(super) fn loader_message(error: &libloading::Error) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
