//! Clusters in virtual time under crashes, pauses, cuts and a database that answers late, twice or not at all.
//!
//! `make simulate` runs a million schedules; `SIMULATE_SEED=n cargo test --test simulation` runs one again and prints what happens.

#[path = "simulation/world.rs"]
mod world;

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU64, Ordering},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use world::{Fault, Ms, Plant, Schedule, World};

/// Schedules of each of the two kinds, where `SIMULATE` does not say.
const SCHEDULES: u64 = 5_000;
/// The last fault is over long before the end: everything has settled by then.
const SETTLES: Ms = 30_000;

fn schedules() -> u64 {
    std::env::var("SIMULATE").ok().map_or(SCHEDULES, |text| text.parse().expect("SIMULATE is a number of schedules"))
}

fn fault(rng: &mut StdRng, nodes: usize) -> Fault {
    let node = rng.random_range(0..nodes);
    let other = (node + rng.random_range(1..nodes)) % nodes;
    match rng.random_range(0..8) {
        0 | 1 => Fault::Crash(node, rng.random_range(500..15_000)),
        2 => Fault::Pause(node, rng.random_range(200..12_000)),
        3 => Fault::Cut(node, other, rng.random_range(200..12_000)),
        4 => Fault::NoDatabase(node, rng.random_range(200..15_000)),
        5 => Fault::DatabaseDown(rng.random_range(200..15_000)),
        6 => Fault::Roams,
        _ => Fault::Drains(node),
    }
}

/// Anything at any time.
fn chaos(seed: u64, plant: Option<Plant>) -> Schedule {
    let mut rng = StdRng::seed_from_u64(seed);
    let nodes = rng.random_range(2..6);
    let faults: Vec<_> =
        (0..rng.random_range(1..8)).map(|_| (rng.random_range(0..40_000), fault(&mut rng, nodes))).collect();
    let end = faults.iter().map(|(at, fault)| at + fault.lasts()).max().unwrap_or(0) + SETTLES;
    // Clocks should agree to a second; where they do not, more depends on fencing.
    let clocks = if plant.is_some() { 6000 } else { 1000 };
    Schedule { seed, nodes, faults, end, clocks, plant, tell: false }
}

/// One fault after the other of nodes that do not hold the encoder, each over before the next: nothing may be missing.
fn one_by_one(seed: u64, plant: Option<Plant>) -> Schedule {
    let mut rng = StdRng::seed_from_u64(seed);
    let nodes = rng.random_range(3..6);
    let mut at = 12_000;
    let mut faults = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let node = rng.random_range(0..nodes);
        let fault = match rng.random_range(0..3) {
            0 => Fault::Crash(node, rng.random_range(500..6_000)),
            1 => Fault::Pause(node, rng.random_range(200..6_000)),
            _ => Fault::NoDatabase(node, rng.random_range(200..6_000)),
        };
        faults.push((at, fault));
        at += fault.lasts() + 12_000;
    }
    Schedule { seed, nodes, faults, end: at + SETTLES, clocks: 500, plant, tell: false }
}

/// Runs a schedule; what is wrong with what became of it.
fn run(schedule: Schedule, loses_nothing: bool) -> Option<String> {
    let mut world = World::new(schedule.clone());
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    let mut broken = std::mem::take(&mut world.broken);
    if ran.is_err() {
        broken.push("it panicked".into());
    }
    if broken.is_empty() && loses_nothing && world.one_session() {
        let missing = world.missing();
        if !missing.is_empty() {
            broken.push(format!("{missing:?} are missing"));
        }
    }
    (!broken.is_empty()).then(|| format!("seed {}: {}\n{schedule:#?}", schedule.seed, broken.join("; ")))
}

type Make = fn(u64, Option<Plant>) -> Schedule;

/// Runs schedules on all cores until one is broken.
fn first_broken(make: Make, loses_nothing: bool, count: u64, plant: Option<Plant>) -> Option<String> {
    let next = AtomicU64::new(0);
    let only = std::env::var("SIMULATE_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = only {
        return run(Schedule { tell: true, ..make(seed, plant) }, loses_nothing);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return None;
            }
            let broken = run(make(seed, plant), loses_nothing);
            if broken.is_some() {
                next.store(count, Ordering::Relaxed);
                return broken;
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("it catches panics")).next()
    })
}

fn holds(make: Make, loses_nothing: bool) {
    if let Some(broken) = first_broken(make, loses_nothing, schedules(), None) {
        panic!("{broken}\nrun it again with SIMULATE_SEED set to its seed");
    }
}

#[test]
fn whatever_happens_there_is_one_chunk_of_a_number_and_the_stream_goes_on() {
    holds(chaos, false);
}

#[test]
fn what_happens_to_one_node_at_a_time_loses_nothing() {
    holds(one_by_one, true);
}

#[test]
fn planted_faults_are_found() {
    // As many as it takes: the first is enough.
    let found = |make, loses_nothing, plant| first_broken(make, loses_nothing, 20 * SCHEDULES, Some(plant));
    for plant in [Plant::NoFencing, Plant::LivenessIsMembership] {
        assert!(found(chaos, false, plant).is_some(), "{plant:?} is not found");
    }
    for plant in [Plant::BeginsOneLater, Plant::NobodyTakesOver] {
        assert!(found(one_by_one, true, plant).is_some(), "{plant:?} is not found");
    }
}
