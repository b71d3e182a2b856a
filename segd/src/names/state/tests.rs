use super::*;

const BOUNDS: Bounds = Bounds { min: Duration::from_secs(30), max: Duration::from_secs(3600) };
const NAME: &str = "db.example.com";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// `10.0.0.1 10.0.0.2 @60`, `-` nothing, `!` failed.
fn family(text: &str) -> Family {
    match text {
        "-" => Family::Nothing("it has no address".into()),
        "!" => Family::Failed("SERVFAIL".into()),
        text => {
            let (addresses, ttl) = text.split_once('@').unwrap();
            Family::Found {
                addresses: addresses.split_whitespace().map(|a| a.parse().unwrap()).collect(),
                ttl: Duration::from_secs(ttl.parse().unwrap()),
            }
        }
    }
}

fn answer(v4: &str, v6: &str) -> Answer {
    Answer { v4: family(v4), v6: family(v6) }
}

/// As `10.0.0.1 2001:db8::1`.
fn addresses(state: &State) -> String {
    let list: Vec<String> = state.get(NAME).unwrap().addresses.keys().map(ToString::to_string).collect();
    list.join(" ")
}

fn followed() -> State {
    let mut state = State::default();
    assert!(state.follow([NAME]).is_empty());
    state
}

#[test]
fn an_answer_replaces_and_a_failure_keeps() {
    let cases = [
        // v4, v6, addresses then, changed, seconds until the next look-up, error.
        ("10.0.0.1 10.0.0.2 @300", "2001:db8::1 @600", "10.0.0.1 10.0.0.2 2001:db8::1", true, 300, None),
        ("10.0.0.1 10.0.0.2 @300", "2001:db8::1 @100", "10.0.0.1 10.0.0.2 2001:db8::1", false, 100, None),
        ("10.0.0.2 10.0.0.3 @300", "2001:db8::1 @600", "10.0.0.2 10.0.0.3 2001:db8::1", true, 300, None),
        ("!", "!", "10.0.0.2 10.0.0.3 2001:db8::1", false, 30, Some("SERVFAIL")),
        ("-", "-", "10.0.0.2 10.0.0.3 2001:db8::1", false, 30, Some("it has no address")),
        ("-", "!", "10.0.0.2 10.0.0.3 2001:db8::1", false, 30, Some("SERVFAIL")),
        ("!", "-", "10.0.0.2 10.0.0.3 2001:db8::1", false, 30, Some("SERVFAIL")),
        ("10.0.0.2 10.0.0.3 @60", "2001:db8::1 @60", "10.0.0.2 10.0.0.3 2001:db8::1", false, 60, None),
        // Each family by itself.
        ("10.0.0.4 @60", "!", "10.0.0.4 2001:db8::1", true, 30, Some("SERVFAIL")),
        ("10.0.0.4 @60", "-", "10.0.0.4", true, 60, None),
        ("-", "2001:db8::2 @60", "2001:db8::2", true, 60, None),
        // Bounds.
        ("10.0.0.4 @0", "-", "10.0.0.4", true, 30, None),
        ("10.0.0.4 @86400", "-", "10.0.0.4", false, 3600, None),
        // Mapped is IPv4.
        ("-", "::ffff:10.0.0.4 @60", "10.0.0.4", false, 60, None),
    ];
    let mut state = followed();
    for (n, (v4, v6, wanted, changed, wait, error)) in cases.into_iter().enumerate() {
        let now = at(1000 * i64::try_from(n).unwrap());
        assert_eq!(state.update(NAME, answer(v4, v6), now, BOUNDS), changed, "{n}");
        assert_eq!(addresses(&state), wanted, "{n}");
        let name = state.get(NAME).unwrap();
        assert_eq!(name.refresh_at.as_second() - now.as_second(), wait, "{n}");
        assert_eq!(name.failed.as_ref().map(|f| f.error.as_str()), error, "{n}");
        assert_eq!(state.next_due(), Some(name.refresh_at));
    }
}

#[test]
fn an_address_that_stays_keeps_its_instant() {
    let mut state = followed();
    state.update(NAME, answer("10.0.0.1 10.0.0.2 @60", "-"), at(5), BOUNDS);
    state.update(NAME, answer("10.0.0.2 10.0.0.3 @60", "-"), at(65), BOUNDS);
    state.update(NAME, answer("!", "!"), at(125), BOUNDS);
    let since: Vec<i64> = state.get(NAME).unwrap().addresses.values().map(|t| t.as_second()).collect();
    assert_eq!(since, [5, 65]);
}

#[test]
fn a_failure_tells_since_when_and_what_still_holds() {
    let mut state = followed();
    state.update(NAME, answer("!", "!"), at(0), BOUNDS);
    assert_eq!(
        state.warnings(),
        [
            "no look-up of db.example.com has succeeded since 1970-01-01T00:00:00Z (SERVFAIL); it never had one, so it \
          stands for nothing"
        ]
    );
    state.update(NAME, answer("10.0.0.1 10.0.0.2 @60", "-"), at(60), BOUNDS);
    assert_eq!(state.warnings(), [""; 0]);
    state.update(NAME, answer("-", "-"), at(120), BOUNDS);
    state.update(NAME, answer("!", "!"), at(150), BOUNDS);
    assert_eq!(
        state.warnings(),
        [
            "no look-up of db.example.com has succeeded since 1970-01-01T00:02:00Z (SERVFAIL); its last 2 addresses stay \
          in force"
        ]
    );
}

#[test]
fn what_no_other_host_can_have_is_refused() {
    let mut state = followed();
    let v4 = "127.0.0.1 0.0.0.0 0.1.2.3 169.254.169.254 224.0.0.1 255.255.255.255 10.0.0.1 192.168.0.1 @60";
    let v6 = "::1 :: fe80::1 ff02::1 ::ffff:127.0.0.2 2001:db8::1 fd00::1 @60";
    assert!(state.update(NAME, answer(v4, v6), at(0), BOUNDS));
    assert_eq!(addresses(&state), "10.0.0.1 192.168.0.1 2001:db8::1 fd00::1");
    assert_eq!(state.get(NAME).unwrap().refused.len(), 11);
    let warnings = state.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("no other host can have (0.0.0.0, "), "{warnings:?}");
    // Nothing else: the former ones stay.
    assert!(!state.update(NAME, answer("127.0.0.1 @60", "-"), at(60), BOUNDS));
    assert_eq!(addresses(&state), "10.0.0.1 192.168.0.1 2001:db8::1 fd00::1");
    let failed = state.get(NAME).unwrap().failed.clone().unwrap();
    assert_eq!(failed.error, "it has no address that another host can have");
}

#[test]
fn of_too_many_those_stay_that_hold_already() {
    let many = |from: u8| {
        let list: Vec<String> = (from..from + 100).map(|n| format!("10.0.0.{n}")).collect();
        answer(&format!("{} @60", list.join(" ")), "-")
    };
    let mut state = followed();
    assert!(state.update(NAME, many(100), at(0), BOUNDS));
    let name = state.get(NAME).unwrap();
    assert_eq!((name.addresses.len(), name.left_out), (MAX_ADDRESSES, 36));
    assert!(!state.update(NAME, many(80), at(60), BOUNDS), "all 64 are among them still");
    assert!(state.warnings()[0].contains("36 addresses more than the 64"), "{:?}", state.warnings());
}

#[test]
fn names_come_and_go() {
    let mut state = State::default();
    state.follow(["B.example.com.", "a.example.com"]);
    let names: Vec<&str> = state.names().map(|(text, _)| text).collect();
    assert_eq!(names, ["a.example.com", "b.example.com"]);
    assert_eq!(state.due(at(100), BOUNDS).len(), 2, "new ones are due at once");
    assert!(state.update("b.EXAMPLE.com", answer("10.0.0.1 @60", "-"), at(100), BOUNDS));
    assert!(!state.update("c.example.com", answer("10.0.0.1 @60", "-"), at(100), BOUNDS));
    assert_eq!(state.due(at(100), BOUNDS), ["a.example.com"]);
    assert_eq!(state.due(at(160), BOUNDS), ["a.example.com", "b.example.com"]);
    state.follow(["b.example.com"]);
    let mut former = state.follow(["a.example.com"]);
    assert_eq!(state.get("b.example.com"), None);
    assert_eq!(former.len(), 1);
    state.follow(["a.example.com", "b.example.com"]);
    state.recall(&mut former);
    assert_eq!(state.get("b.example.com").unwrap().addresses.len(), 1, "what it stood for last");
    assert!(former.is_empty());
    assert_eq!(state.due(at(100), BOUNDS), ["a.example.com", "b.example.com"]);
}

#[test]
fn what_is_learnt_meanwhile_is_not_lost() {
    let mut state = State::default();
    state.follow(["a.example.com", "b.example.com", "c.example.com"]);
    let before = state.clone();
    let mut copy = state.clone();
    copy.update("a.example.com", answer("10.0.0.1 @60", "-"), at(100), BOUNDS);
    copy.update("c.example.com", answer("10.0.0.3 @60", "-"), at(100), BOUNDS);
    state.follow(["a.example.com", "b.example.com", "d.example.com"]);
    state.update("b.example.com", answer("10.0.0.2 @60", "-"), at(100), BOUNDS);
    state.update("d.example.com", answer("10.0.0.4 @60", "-"), at(100), BOUNDS);
    state.adopt(copy, &before);
    let all: Vec<_> = state.names().map(|(text, name)| (text, name.addresses.len())).collect();
    assert_eq!(all, [("a.example.com", 1), ("b.example.com", 1), ("d.example.com", 1)]);
}

#[test]
fn a_clock_that_was_set_back_makes_names_due() {
    let mut state = followed();
    state.update(NAME, answer("10.0.0.1 @60", "-"), at(100_000), BOUNDS);
    assert_eq!(state.due(at(100_059), BOUNDS), [""; 0]);
    assert_eq!(state.due(at(1000), BOUNDS), [NAME]);
}

#[test]
fn the_state_outlives_a_restart() {
    let mut state = followed();
    state.update(NAME, answer("10.0.0.1 127.0.0.1 @60", "!"), at(100), BOUNDS);
    let text = serde_json::to_string(&state).unwrap();
    assert!(text.contains(r#""db.example.com":{"addresses":{"10.0.0.1":"1970-01-01T00:01:40Z"}"#), "{text}");
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
}
