//! What all targets share: nothing that is read may cost much more memory
//! than its own size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what each thread holds. libFuzzer's own memory is not in it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no such variables any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        unsafe { System.dealloc(block, layout) }
    }
}

/// Runs `read` and panics if at any moment it held more than `per_byte` times
/// the input's size and `fixed` bytes.
pub fn bounded<T>(input: &[u8], per_byte: usize, fixed: usize, read: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    MOST.set(before);
    let result = read();
    let held = (MOST.get() - before).cast_unsigned();
    let allowed = input.len() * per_byte + fixed;
    assert!(held <= allowed, "{held} bytes for {} of input", input.len());
    result
}
