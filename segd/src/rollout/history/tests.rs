use std::fs;

use segd_common::traffic::Mode;

use super::*;

fn sources(generation: u32) -> Sources {
    let text = format!("# {generation} ü\n");
    Sources::from_texts([("/etc/segd/zones/a.toml", text.as_str()), ("b.toml", "")])
}

/// Without zone files.
fn bare(generation: u32, hash: String) -> Record {
    let overrides = vec![ModeOverride {
        mode: Mode::Enforce,
        subject: Some("orders".into()),
        service: None,
        direction: None,
        set_by: 0,
        set_at: Timestamp::UNIX_EPOCH,
    }];
    Record::new(generation, Timestamp::UNIX_EPOCH, Some(1000), "apply", hash, overrides)
}

fn listed(generation: u32) -> Record {
    bare(generation, sources(generation).hash())
}

fn record(generation: u32) -> Record {
    let files = sources(generation).files().iter().map(|f| (f.name.clone(), f.text.clone())).collect();
    Record { files, ..listed(generation) }
}

fn save(history: &History, generation: u32) {
    history.save(listed(generation), &sources(generation)).unwrap();
}

#[test]
fn what_was_saved_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path()).unwrap();
    for generation in [9, 10, 7] {
        save(&history, generation);
    }
    assert_eq!(history.load(10).unwrap(), record(10));
    assert_eq!(history.load(10).unwrap().sources().files()[0].text, "# 10 ü\n");
    let listing = history.list().unwrap();
    assert_eq!(listing.records, [listed(10), listed(9), listed(7)]);
    assert!(listing.damaged.is_empty());
    assert_eq!(history.load(8).unwrap_err().to_string(), "generation 8 is not kept; there are 10, 9, 7");
}

#[test]
fn damage_is_told_and_costs_only_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path()).unwrap();
    for generation in 1..=4 {
        save(&history, generation);
    }
    let at = |name: &str| dir.path().join("generations").join(name);
    fs::write(at("1.json"), "{").unwrap();
    let changed = fs::read_to_string(at("2.json")).unwrap().replace("# 2", "# 3");
    fs::write(at("2.json"), changed).unwrap();
    fs::copy(at("3.json"), at("5.json")).unwrap();
    for stranger in [".6.json.new", "06.json", "x.json", "7.txt"] {
        fs::write(at(stranger), "").unwrap();
    }
    let listing = history.list().unwrap();
    assert_eq!(listing.records, [listed(4), listed(3)]);
    let damaged: Vec<_> = listing.damaged.iter().map(|(n, error)| format!("{n} {error}")).collect();
    assert!(damaged[0].starts_with("5 ") && damaged[0].contains("5.json was changed"), "{damaged:?}");
    assert!(damaged[1].starts_with("2 ") && damaged[1].contains("2.json was changed"), "{damaged:?}");
    assert!(damaged[2].starts_with("1 ") && damaged[2].contains("is damaged"), "{damaged:?}");
    assert_eq!(damaged.len(), 3);
    assert!(history.load(1).is_err() && history.load(2).is_err());
}

#[test]
fn the_newest_and_the_protected_stay() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path()).unwrap();
    assert_eq!(history.prune(KEEP, &[]).unwrap(), [0; 0]);
    for generation in 1..=14 {
        save(&history, generation);
    }
    assert_eq!(history.prune(KEEP, &[2, 14, 99]).unwrap(), [1, 3, 4]);
    assert_eq!(history.generations().unwrap(), [14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 2]);
    assert_eq!(history.prune(KEEP, &[]).unwrap(), [2]);
}

/// A zone file with lists of about 10 kB each, which begin with these numbers.
fn large(lists: &[usize]) -> Sources {
    let list = |first: &usize| -> String {
        let all = (0..600).map(|n| format!("\"{}.{}.{}.0/24\"", first / 256, first % 256, n % 256));
        all.collect::<Vec<_>>().join(",")
    };
    let zone = |(n, first): (usize, &usize)| format!("[zone.z{n}]\ncidrs = [{}] # ü {n}\n", list(first));
    let text: String = lists.iter().enumerate().map(zone).collect();
    Sources::from_texts([("a.toml", "# small\n".to_owned()), ("b.toml", text)])
}

#[test]
fn long_lists_are_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path()).unwrap();
    let at = |name: &str| dir.path().join("generations").join(name);
    let size = |name: &str| fs::metadata(at(name)).map_or(0, |m| m.len());
    let save = |generation: u32, lists: &[usize]| {
        let sources = large(lists);
        history.save(bare(generation, sources.hash()), &sources).unwrap();
        sources
    };
    let mut lists: Vec<usize> = (256..456).collect();
    let first = save(1, &lists);
    lists[7] = 1000;
    // Of the same size, elsewhere.
    lists.swap(3, 100);
    let second = save(2, &lists);
    assert!(size("1.lists") > 1_000_000 && size("1.json") < 40_000, "{} {}", size("1.lists"), size("1.json"));
    assert!((1..20_000).contains(&size("2.lists")), "{}", size("2.lists"));
    // Other modes, the same zone files.
    history.save_like(bare(3, second.hash()), 2).unwrap();
    assert_eq!(size("3.lists"), 0);
    for (generation, sources) in [(1, &first), (2, &second), (3, &second)] {
        let loaded = history.load(generation).unwrap();
        assert!(loaded.sources() == *sources && loaded.lists.is_empty(), "{generation}");
    }
    let another = bare(4, first.hash());
    assert!(matches!(history.save_like(another.clone(), 2), Err(HistoryError::Altered(_))));
    assert!(matches!(history.save_like(another, 9), Err(HistoryError::Missing { generation: 9, .. })));
    assert!(history.list().unwrap().damaged.is_empty());

    // What no record refers to goes, and nothing else.
    history.prune(2, &[]).unwrap();
    assert!(size("1.lists") > 0 && size("2.lists") > 0 && size("1.json") == 0);
    assert!(history.load(3).unwrap().sources() == second);
    let small = sources(5);
    history.save(bare(5, small.hash()), &small).unwrap();
    history.prune(1, &[]).unwrap();
    assert_eq!((size("1.lists"), size("2.lists")), (0, 0));
    let sixth = save(6, &lists);
    assert!(size("6.lists") > 1_000_000 && history.load(6).unwrap().sources() == sixth);
}

#[test]
fn lists_of_a_record_that_was_given_up_are_not_referred_to() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path()).unwrap();
    let save = |generation: u32, first: usize| {
        let sources = large(&(first..first + 200).collect::<Vec<_>>());
        history.save(bare(generation, sources.hash()), &sources).unwrap();
        sources
    };
    save(1, 256);
    history.remove(1).unwrap();
    let other = save(1, 600);
    let back = save(2, 256);
    assert!(history.load(1).unwrap().sources() == other);
    assert!(history.load(2).unwrap().sources() == back);
}

#[test]
fn another_agent_goes_on_and_damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let lists: Vec<usize> = (256..456).collect();
    let sources = large(&lists);
    for generation in 1..=3 {
        // Each knows nothing of the former's lists.
        let history = History::open(dir.path()).unwrap();
        history.save(bare(generation, sources.hash()), &sources).unwrap();
        history.prune(2, &[]).unwrap();
    }
    let history = History::open(dir.path()).unwrap();
    let at = |name: &str| dir.path().join("generations").join(name);
    assert!(!at("1.lists").exists() && at("2.lists").exists());
    let mut text = fs::read(at("2.lists")).unwrap();
    text[100] ^= 1;
    fs::write(at("2.lists"), &text).unwrap();
    fs::write(at("3.lists"), &text[..1000]).unwrap();
    assert!(matches!(history.load(2), Err(HistoryError::Altered(path)) if path.ends_with("2.json")));
    assert!(matches!(history.load(3), Err(HistoryError::Altered(path)) if path.ends_with("3.lists")));
    fs::remove_file(at("3.lists")).unwrap();
    assert!(history.load(3).unwrap_err().to_string().contains("3.lists"));
    assert_eq!(history.list().unwrap().damaged.len(), 2);
    // A pack that is gone is not referred to.
    let sources = large(&lists);
    history.save(bare(4, sources.hash()), &sources).unwrap();
    fs::remove_file(at("4.lists")).unwrap();
    history.save(bare(5, sources.hash()), &sources).unwrap();
    assert!(history.load(5).unwrap().sources() == sources);
}
