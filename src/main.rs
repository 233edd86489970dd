//! Dispatches the hidden subcommands that run as child processes.

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some(weir::transcode::worker::SUBCOMMAND) => weir::transcode::worker::run(),
        Some(weir::transcode::probe::SUBCOMMAND) => weir::transcode::probe::run(),
        _ => Ok(()),
    }
}
