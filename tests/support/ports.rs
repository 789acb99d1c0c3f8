//! Ports for programs that can't take any free one.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test binary needs it, and a test fails by panicking"
)]

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below those that the kernel hands out by itself; others for each call.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() * 8 + 4_000;
    std::array::from_fn(|_| {
        loop {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let port = u16::try_from(10_000 + (start + step) % 22_000).unwrap();
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    })
}
