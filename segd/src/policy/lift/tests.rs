use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::policy::{Lists, Policy, Sources, load};

fn nothing() -> Known {
    Known::default()
}

fn lifted(text: &str) -> Option<Lifted> {
    lift(text, &nothing(), 0)
}

fn prefixes(list: &List) -> Vec<String> {
    let four = list.four().map(|(ip, len)| format!("{}/{len}", std::net::Ipv4Addr::from(ip)));
    four.chain(list.six().map(|net| net.to_string())).collect()
}

#[test]
fn a_list_is_taken_and_the_rest_keeps_its_meaning_and_its_places() {
    let text =
        "# first\n[zone.a]\n  cidrs = [ \"10.0.0.0/8\",\r\n\t\"2001:db8::/32\" , ] # all\nowner = \"x\"\n";
    let Lifted { text: rest, cuts } = lifted(text).unwrap();
    assert_eq!(rest, "# first\n[zone.a]\n  cidrs = [] # all\nowner = \"x\"\n");
    let at = rest.find("[]").unwrap();
    let (base, list) = cuts.list(at).unwrap();
    assert_eq!(base, text.find("[ ").unwrap());
    assert_eq!(prefixes(list), ["10.0.0.0/8", "2001:db8::/32"]);
    for word in ["first", "zone", "cidrs", "# all", "owner", "\"x\""] {
        assert_eq!(cuts.whole(rest.find(word).unwrap()), text.find(word).unwrap(), "{word}");
    }
    assert_eq!(cuts.whole(at + 2), text.find(" # all").unwrap());
    assert!(cuts.list(at + 1).is_none() && cuts.list(0).is_none());
}

#[test]
fn what_is_not_certain_stays() {
    for list in [
        "[]",
        "[ ]",
        "[\"10.0.0.1/8\"]",
        "[\"10.0.0.0/8\" \"11.0.0.0/8\"]",
        "[\"10.0.0.0/8\",,]",
        "[,\"10.0.0.0/8\"]",
        "[\"10.0.0.0/8\", # ten\n]",
        "['10.0.0.0/8']",
        "[\"10.0.0.0/33\"]",
        "[\"10.0.0/8\"]",
        "[\"10.0.0.0\"]",
        "[\" 10.0.0.0/8\"]",
        "[\"\\u0031.0.0.0/8\"]",
        "[\"::ffff:10.0.0.0/104\"]",
        "[\"2001:db8::1/32\"]",
        "[\"10.0.0.0/8\",\r\"11.0.0.0/8\"]",
        "[[\"10.0.0.0/8\"]]",
        "[\"10.0.0.0/8\"",
        "[10]",
    ] {
        assert!(lifted(&format!("[zone.a]\ncidrs = {list}\n")).is_none(), "{list}");
    }
    for text in [
        "a = \"\"\"\ncidrs = [\"10.0.0.0/8\"]\n\"\"\"\n",
        "a = '''\ncidrs = [\"10.0.0.0/8\"]\n'''\n",
        "a = { cidrs = [\"10.0.0.0/8\"] }\n",
        "zone.a.cidrs = [\"10.0.0.0/8\"]\n",
        "# cidrs = [\"10.0.0.0/8\"]\n",
        "xcidrs = [\"10.0.0.0/8\"]\n",
        "cidrsx = [\"10.0.0.0/8\"]\n",
        "cidrs\n= [\"10.0.0.0/8\"]\n",
    ] {
        assert!(lifted(text).is_none(), "{text}");
    }
}

#[test]
fn a_list_within_something_else_is_no_list() {
    let text = "[zone.a]\nnames = [\ncidrs = [\"10.0.0.0/8\"]\n]\n";
    let long = text.replace("\"10.0.0.0/8\"", &list_of(200));
    assert!(lift(&long, &nothing(), LEAST).is_some());
    assert!(load(sources(&long), now()).is_err());
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn sources(text: &str) -> Sources {
    Sources::from_texts([("z.toml", text)])
}

/// So many prefixes as text.
fn list_of(number: usize) -> String {
    (0..number).map(|n| format!("\"10.{}.{}.0/24\"", n / 256, n % 256)).collect::<Vec<_>>().join(", ")
}

fn shown(policy: &Policy) -> Vec<String> {
    let cidrs = |zone: &crate::policy::model::Zone| zone.cidrs.iter().collect::<Vec<_>>();
    let zones = policy.zones.iter().map(|(name, zone)| {
        format!("{name} {:?} {:?} {:?} {:?}", zone.place, zone.owner, zone.names, cidrs(zone))
    });
    let index = policy.index.zones().map(str::to_owned).collect::<Vec<_>>();
    let mut prefixes: Vec<String> = policy
        .index
        .four()
        .iter()
        .map(|e| e.parts())
        .map(|(len, ip, zone)| format!("{ip}/{len} {}", index[zone as usize]))
        .collect();
    prefixes.sort();
    zones.chain(prefixes).chain(policy.rules.iter().map(|rule| format!("{rule:?}"))).collect()
}

#[test]
fn former_lists_are_shared_and_changed_ones_read() {
    let text = |a: &str, b: &str| format!("[zone.a]\ncidrs = [{a}]\n[zone.b]\ncidrs = [{b}]\n");
    let long = list_of(200);
    let other = long.replace("10.0.", "11.0.");
    let first = load(sources(&text(&long, "\"192.0.2.0/24\"")), now()).unwrap();
    let lists = || Lists::of([&first]);
    let list = |policy: &Policy, zone: &str| Arc::clone(policy.zones[zone].cidrs.list());
    // Further down, and in another zone.
    let further = format!("# a line\n{}", text("\"192.0.2.0/24\"", &long));
    let moved = lists().load(sources(&further), now());
    let moved = moved.unwrap();
    let begins = further.find("\"10.0.0.0").unwrap();
    assert!(Arc::ptr_eq(&list(&moved, "b"), &list(&first, "a")));
    assert_eq!(moved.zones["b"].cidrs.iter().next().unwrap().place.start, begins);
    assert_eq!(moved.index.longest("10.0.3.4".parse().unwrap()).unwrap().1, "b");
    assert_eq!(moved.index.longest("192.0.2.4".parse().unwrap()).unwrap().1, "a");
    // The same length, other content.
    let changed = lists().load(sources(&text(&other, "\"192.0.2.0/24\"")), now()).unwrap();
    assert_eq!(changed.index.longest("11.0.3.4".parse().unwrap()).unwrap().1, "a");
    assert!(changed.index.longest("10.0.3.4".parse().unwrap()).is_none());
    // What one zone may have, two may not.
    let twice = lists().load(sources(&text(&long, &long)), now()).unwrap_err();
    assert!(twice.items()[0].message.contains("both claim the prefix `10.0.0.0/24`"), "{twice:?}");
}

/// Zone files with mistakes here and there.
fn file() -> impl Strategy<Value = String> {
    let prefix = prop_oneof![
        20 => (0_u8..3, 0_u8..40).prop_map(|(a, b)| format!("\"10.{a}.{b}.0/24\"")),
        4 => (0_u8..9).prop_map(|a| format!("\"2001:db8:{a}::/48\"")),
        1 => Just("\"10.0.0.1/24\"".to_owned()),
        1 => Just("\"127.0.0.0/8\"".to_owned()),
        1 => Just("# x\n\"192.0.2.0/24\"".to_owned()),
    ];
    let list =
        prop::collection::vec(prefix, 1..6).prop_map(|all| format!("cidrs = [{}]\n", all.join(",\n  ")));
    let line = prop_oneof![
        8 => list,
        2 => Just("owner = \"x\"\n".to_owned()),
        1 => Just("# cidrs = [\n".to_owned()),
        1 => Just("description = \"\"\"\ncidrs = [\"10.9.9.0/24\"]\n\"\"\"\n".to_owned()),
        1 => Just("names = [\"a.example\",\n".to_owned()),
        1 => Just("]\n".to_owned()),
    ];
    let zone = (0_u8..4, prop::collection::vec(line, 1..3));
    let zones = prop::collection::vec(zone, 1..4);
    zones.prop_map(|zones| {
        zones.into_iter().map(|(n, lines)| format!("[zone.z{n}]\n{}", lines.concat())).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn with_and_without_former_lists_a_text_means_the_same(texts in prop::collection::vec(file(), 1..5)) {
        let mut former: Option<Policy> = None;
        for text in texts {
            let plain = Lists::default().with_least(usize::MAX).load(sources(&text), now());
            let lists = Lists::of(former.as_ref());
            let like = lists.with_least(0).load(sources(&text), now());
            match (plain, like) {
                (Ok(plain), Ok(like)) => {
                    prop_assert_eq!(shown(&plain), shown(&like), "{}", text);
                    former = Some(like);
                }
                (Err(plain), Err(like)) => prop_assert_eq!(plain.render(false), like.render(false)),
                (plain, like) => prop_assert!(false, "{} {:?} {:?}", text, plain.is_ok(), like.is_ok()),
            }
        }
    }
}
