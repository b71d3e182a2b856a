use segd_common::addr::Addr;
use segd_common::id::{Generation, ServiceId, SubjectId, ZoneId};

use super::*;
use crate::telemetry::process::{NoProcesses, ProcessInfo};

/// A host in zone `fulfillment` with a peer zone `orders`, a service `postgres` and a rule.
pub(crate) fn context() -> Context {
    let mut registry = Registry::default();
    registry.zone("fulfillment").unwrap();
    registry.zone("orders").unwrap();
    registry.service("postgres").unwrap();
    let rule = registry.rule("wms-to-orders-db").unwrap();
    Context {
        host: "wms-app-1".into(),
        labels: Arc::new(BTreeMap::from([("site".to_owned(), "rotterdam".to_owned())])),
        registry: Arc::new(registry),
        rule_owners: HashMap::from([(rule, "orders-team@example.com".into())]),
        workloads: [].into(),
    }
}

pub(crate) const CLOCK: BootClock = BootClock { offset_ns: 1_767_225_600_000_000_000 };

/// An allowed outbound TCP flow from `fulfillment` to `orders` tcp/5432.
pub(crate) fn event(kind: Kind) -> Event {
    Event {
        time: 90_500_123_456,
        cookie: 7,
        count: 1,
        owner: Owner { cgroup: 42, pid: 1234, uid: 1000, comm: *b"psql\0\0\0\0\0\0\0\0\0\0\0\0" },
        flow: Flow {
            peer: Addr::v4([10, 30, 0, 5]),
            local: Addr::v4([10, 20, 0, 7]),
            started: 88_000_000_000,
            packets_in: 10,
            packets_out: 12,
            bytes_in: 4096,
            bytes_out: 900,
            generation: Generation(3),
            rule: RuleId(1),
            peer_port: 5432,
            local_port: 40_000,
            zone: ZoneId(17),
            service: ServiceId(1),
            subject: SubjectId(16),
            protocol: protocol::TCP,
            direction: Direction::Outbound as u8,
            verdict: Verdict::Allowed as u8,
            reason: Reason::Rule as u8,
            ..Flow::default()
        },
        rtt_us: 310,
        retransmits: 2,
        kind: kind as u8,
        pad: [0; 7],
    }
}

pub(crate) fn denied() -> Event {
    let mut event = event(Kind::Deny);
    event.flow.rule = RuleId::NONE;
    event.flow.verdict = Verdict::Denied as u8;
    event.flow.reason = Reason::NoRule as u8;
    event.count = 3;
    event
}

pub(crate) fn record(event: &Event) -> FlowRecord {
    FlowRecord::from_event(event, &context(), CLOCK, &NoProcesses).unwrap()
}

struct Psql;

impl ProcessLookup for Psql {
    fn look_up(&self, owner: &Owner) -> ProcessInfo {
        assert_eq!(owner.pid, 1234);
        ProcessInfo { exe: Some("/usr/bin/psql".into()), unit: Some("release.service".into()) }
    }
}

#[test]
fn json_of_a_close() {
    let record = FlowRecord::from_event(&event(Kind::Close), &context(), CLOCK, &Psql).unwrap();
    let json = serde_json::to_string(&record).unwrap();
    let want = concat!(
        r#"{"schema":1,"time":"2026-01-01T00:01:30.500123Z","host":"wms-app-1","labels":{"site":"rotterdam"},"#,
        r#""event":"close","verdict":"allowed","reason":"rule","direction":"outbound","protocol":"tcp","#,
        r#""src":{"ip":"10.20.0.7","port":40000,"zone":"fulfillment"},"#,
        r#""dst":{"ip":"10.30.0.5","port":5432,"zone":"orders"},"#,
        r#""service":"postgres","rule":"wms-to-orders-db","rule_owner":"orders-team@example.com","#,
        r#""generation":3,"subject":"fulfillment","workload":null,"#,
        r#""process":{"pid":1234,"comm":"psql","exe":"/usr/bin/psql","unit":"release.service","uid":1000},"#,
        r#""count":1,"packets":{"in":10,"out":12},"bytes":{"in":4096,"out":900},"#,
        r#""duration_ms":2500,"rtt_us":310,"retransmits":2}"#,
    );
    assert_eq!(json, want);
    assert_eq!(serde_json::from_str::<FlowRecord>(&json).unwrap(), record);
}

#[test]
fn time_always_has_six_digits() {
    let mut event = event(Kind::Open);
    event.time = 1_000_000_000;
    let json = serde_json::to_value(record(&event)).unwrap();
    assert_eq!(json["time"], "2026-01-01T00:00:01.000000Z");
}

#[test]
fn source_began_the_flow() {
    let mut inbound = event(Kind::Open);
    inbound.flow.direction = Direction::Inbound as u8;
    let record = record(&inbound);
    assert_eq!((&*record.src.zone, record.src.port), ("orders", 5432));
    assert_eq!((&*record.dst.zone, record.dst.port), ("fulfillment", 40_000));
}

#[test]
fn only_an_end_is_measured() {
    for (kind, duration, rtt) in
        [(Kind::Open, None, None), (Kind::Revoke, Some(2500), None), (Kind::Close, Some(2500), Some(310))]
    {
        let record = record(&event(kind));
        assert_eq!((record.duration_ms, record.rtt_us), (duration, rtt), "{kind:?}");
    }
}

#[test]
fn icmp_has_type_and_code_instead_of_ports() {
    let mut ping = event(Kind::Open);
    ping.flow.protocol = protocol::ICMP;
    (ping.flow.local_port, ping.flow.peer_port) = (0, 8 << 8 | 1);
    let json = serde_json::to_value(record(&ping)).unwrap();
    assert_eq!((&json["icmp_type"], &json["icmp_code"]), (&8.into(), &1.into()));
    assert_eq!((&json["src"]["port"], &json["dst"]["port"]), (&0.into(), &0.into()));
    let json = serde_json::to_value(record(&event(Kind::Open))).unwrap();
    assert!(json.get("icmp_type").is_none());
}

#[test]
fn a_socket_older_than_the_agent_has_no_process() {
    let mut event = event(Kind::Open);
    event.owner = Owner::default();
    let json = serde_json::to_value(record(&event)).unwrap();
    assert!(json["process"].is_null());
}

#[test]
fn unknown_numbers_do_not_hide_a_flow_but_unknown_bytes_are_errors() {
    let mut odd = denied();
    (odd.flow.zone, odd.flow.protocol) = (ZoneId(999), 47);
    let record = record(&odd);
    assert_eq!((&*record.dst.zone, &*record.protocol, record.count), ("?999", "47", 3));
    odd.flow.verdict = 9;
    let error = FlowRecord::from_event(&odd, &context(), CLOCK, &NoProcesses).unwrap_err();
    assert!(error.to_string().contains("verdict is 9"), "{error}");
}

#[test]
fn a_subject_that_is_a_workload_is_named_as_one() {
    let mut context = context();
    let record =
        |context: &Context| FlowRecord::from_event(&event(Kind::Open), context, CLOCK, &NoProcesses).unwrap();
    assert_eq!(record(&context).workload, None);
    context.workloads.insert(SubjectId(16));
    let record = record(&context);
    assert_eq!((record.workload.as_deref(), &*record.subject), (Some("fulfillment"), "fulfillment"));
}
