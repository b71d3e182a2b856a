//! A policy that nobody confirms gives way to its fallback, by the kernel's clock alone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aya::maps::{ArrayOfMaps, MapData};
use segd::datapath::host::boottime_ns;
use segd::datapath::{Datapath, Fallback, InForce, Pending};
use segd_common::id::Generation;
use segd_common::schema;
use segd_tests::{Actor, Report};

use crate::support::{ENFORCE, Pair, pinned, rule};

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_deadline_passes_with_nobody_there() {
    let Some(pair) = Pair::new("deadline") else { return };
    let (to_db, to_web) = (pair.orders.v4_port(5432), pair.orders.v4_port(8080));
    let db = pair.compiled(&format!("{}{ENFORCE}", rule("\"tcp/5432\"")));
    let web = pair.compiled(&format!("{}{ENFORCE}", rule("\"tcp/8080\"")));
    let place = pair.place();
    let mut actor = pair.transport.actor(&["attempt"]).unwrap();
    let mut may = |what| allowed(&mut actor, &format!("tcp {what}"));

    let began = Instant::now();
    let mut datapath = Datapath::open(&place, true).unwrap();
    assert_eq!(datapath.next_generation(false).unwrap(), Generation(1));
    assert_eq!(datapath.apply(&db, None).unwrap(), Generation(1));
    datapath.attach().unwrap();
    assert_eq!((may(to_db), may(to_web)), (true, false));

    // A second one before the first has passed: its fallback is what counts.
    let far = boottime_ns() + 3600 * SECOND;
    assert_eq!(datapath.next_generation(true).unwrap(), Generation(3));
    assert_eq!(datapath.apply(&web, Some(Fallback { compiled: &db, deadline: far })).unwrap(), Generation(3));
    let deadline = soon(began);
    assert_eq!(datapath.apply(&web, Some(Fallback { compiled: &db, deadline })).unwrap(), Generation(5));
    let pending = Some(Pending { deadline, fallback: Generation(4) });
    assert_eq!(datapath.in_force().unwrap(), InForce { generation: Generation(5), pending });
    assert_eq!(tables(&pair, schema::POLICY), 2, "the new policy's and the fallback's");
    // Nobody is there any more; the programs stay.
    drop(datapath);
    assert_eq!((may(to_db), may(to_web)), (false, true));
    assert!(boottime_ns() < deadline, "this machine is too slow for this test");
    wait_until(deadline);
    assert_eq!((may(to_db), may(to_web)), (true, false));

    // Whoever comes next finds the fallback in force, and goes on from there.
    let mut datapath = Datapath::open(&place, false).unwrap();
    assert_eq!(datapath.in_force().unwrap(), InForce { generation: Generation(4), pending: None });
    assert_eq!(datapath.generation().unwrap(), Generation(4));
    assert_eq!(datapath.next_generation(false).unwrap(), Generation(6));
    assert_eq!(datapath.apply(&web, None).unwrap(), Generation(6));
    assert_eq!(datapath.in_force().unwrap(), InForce { generation: Generation(6), pending: None });
    assert_eq!(tables(&pair, schema::POLICY), 1, "no former policy stays in memory");
    assert_eq!((may(to_db), may(to_web)), (false, true));
}

#[test]
fn what_is_confirmed_in_time_stays() {
    let Some(pair) = Pair::new("confirm") else { return };
    let to_web = format!("tcp {}", pair.orders.v4_port(8080));
    let db = pair.compiled(&format!("{}{ENFORCE}", rule("\"tcp/5432\"")));
    let web = pair.compiled(&format!("{}{ENFORCE}", rule("\"tcp/8080\"")));
    let mut actor = pair.transport.actor(&["attempt"]).unwrap();
    let began = Instant::now();
    let mut datapath = Datapath::open(&pair.place(), true).unwrap();
    datapath.apply(&db, None).unwrap();
    datapath.attach().unwrap();
    let deadline = soon(began);
    datapath.apply(&web, Some(Fallback { compiled: &db, deadline })).unwrap();
    assert!(allowed(&mut actor, &to_web));
    datapath.apply(&web, None).unwrap();
    assert!(boottime_ns() < deadline, "this machine is too slow for this test");
    wait_until(deadline);
    assert!(allowed(&mut actor, &to_web));
}

/// Swapping waits for the kernel a few times at most, however many tables there are and with or without a fallback.
#[test]
fn swaps_are_quick() {
    let Some(pair) = Pair::new("quick") else { return };
    let policy = |port: u16| pair.compiled(&format!("{}{ENFORCE}", rule(&format!("\"tcp/{port}\""))));
    let mut datapath = Datapath::open(&pair.place(), true).unwrap();
    let mut plain = Vec::new();
    let mut both = Vec::new();
    for port in 1000..1020 {
        let (new, old) = (policy(port), policy(port - 1));
        let began = Instant::now();
        datapath.apply(&new, None).unwrap();
        plain.push(began.elapsed());
        let began = Instant::now();
        let deadline = boottime_ns() + 3600 * SECOND;
        datapath.apply(&new, Some(Fallback { compiled: &old, deadline })).unwrap();
        both.push(began.elapsed());
    }
    for times in [&mut plain, &mut both] {
        times.sort_unstable();
    }
    let median = |times: &[Duration]| times[times.len() / 2];
    println!("plain {:?}, with a fallback {:?}", median(&plain), median(&both));
    assert!(median(&plain) < Duration::from_millis(100), "{plain:?}");
    assert!(median(&both) < Duration::from_millis(150), "{both:?}");
}

/// How many maps the slots of a table hold.
fn tables(pair: &Pair, name: &str) -> usize {
    let outer: ArrayOfMaps<MapData, MapData> = pinned(&pair.transport, name).try_into().unwrap();
    let held = (0..schema::SLOTS).filter_map(|slot| outer.get(&slot, 0).ok());
    held.map(|map| map.info().unwrap().id()).collect::<BTreeSet<u32>>().len()
}

/// Whether an attempt was let begin.
fn allowed(actor: &mut Actor, attempt: &str) -> bool {
    match actor.exchange(attempt).unwrap() {
        Report::Sent => true,
        Report::Failed { step, errno } if step == "connect" && errno == "EPERM" => false,
        other => panic!("{attempt}: {other:?}"),
    }
}

/// An instant in 2 s; later on a machine on which much time has passed since the beginning of a test.
fn soon(began: Instant) -> u64 {
    boottime_ns() + 2 * SECOND + 2 * u64::try_from(began.elapsed().as_nanos()).unwrap()
}

fn wait_until(boottime: u64) {
    std::thread::sleep(Duration::from_nanos(boottime.saturating_sub(boottime_ns())));
}
