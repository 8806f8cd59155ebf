//! Panics of decoders. The files are strangers', so a panic is a problem of the picture, and none of the program.

use super::PictureError;
use super::read::unusable;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Decodes something. If that panics, the picture is unusable, and nothing is printed.
pub(super) fn guarded<T>(
    decode: impl FnOnce() -> Result<T, PictureError>,
) -> Result<T, PictureError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    QUIET.set(before);
    decoded.unwrap_or_else(|_| {
        Err(unusable("cannot be decoded: it is damaged, or of a kind that is not supported"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_decoder_is_a_problem_of_the_picture() {
        let made = guarded(|| guarded(|| -> Result<u8, _> { panic!("index out of bounds") }));
        assert!(made.unwrap_err().to_string().starts_with("cannot be decoded"));
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
    }
}
