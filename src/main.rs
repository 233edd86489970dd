//! The `weir` command.

use std::process::ExitCode;

/// Chunks of a megabyte come and go in step: this allocator gives the pages of the last one to the next, where the system's
/// asks the kernel for fresh ones.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Its settings, read before `main`: what is free goes back to the kernel after a live window, not after 10 s, and also when
/// nobody allocates.
#[allow(unsafe_code)]
// SAFETY: the name belongs to the allocator, which reads a pointer to a C string there.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_SETTINGS: &[u8; 44] = b"dirty_decay_ms:30000,background_thread:true\0";

fn main() -> ExitCode {
    weir::cli::run(std::env::args_os())
}
