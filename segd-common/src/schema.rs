//! Names, sizes and the version of what is pinned in the BPF file system.

/// Version of the layout and meaning of every pinned map. Part of the pin directory's name, so that an agent
/// never reads another version's bytes.
pub const VERSION: u32 = 5;

/// Number of generation slots: the one in force and its fallback, and a place for either beside them.
pub const SLOTS: u32 = 4;

/// `ACTIVE`: array of one [`Active`](crate::table::Active).
pub const ACTIVE: &str = "ACTIVE";
/// `HOSTS`: per slot a hash from address to zone.
pub const HOSTS: &str = "HOSTS";
/// `PREFIXES4`: per slot a trie from IPv4 prefix to zone.
pub const PREFIXES4: &str = "PREFIXES4";
/// `PREFIXES6`: per slot a trie from IPv6 prefix to zone.
pub const PREFIXES6: &str = "PREFIXES6";
/// `POLICY`: per slot a trie from [`PolicyKey`](crate::table::PolicyKey) to entry.
pub const POLICY: &str = "POLICY";
/// `SERVICES`: per slot a trie from [`ServiceKey`](crate::table::ServiceKey) to service.
pub const SERVICES: &str = "SERVICES";
/// `FAILSAFES`: per slot a trie of [`FailsafeKey`](crate::table::FailsafeKey)s.
pub const FAILSAFES: &str = "FAILSAFES";
/// `PATTERNS`: per slot a hash from a number, from 0 on, to [`Pattern`](crate::table::Pattern).
pub const PATTERNS: &str = "PATTERNS";
/// `WORKLOADS`: per slot a hash from a cgroup's id to its workload's [`Subject`](crate::table::Subject). The kernel puts a
/// cgroup in if a pattern matches its own path and not only an ancestor's, so that who may make cgroups below a workload's
/// does not fill the table. Each workload stands in it under [`Subject::key`](crate::table::Subject::key), too.
pub const WORKLOADS: &str = "WORKLOADS";
/// `ENDED`: LRU from the id of a removed cgroup that stood in `WORKLOADS` to its workload's
/// [`SubjectId`](crate::id::SubjectId): its sockets may live on.
pub const ENDED: &str = "ENDED";
/// `ANCESTORS`: LRU from the id of a cgroup with sockets to its [`Ancestors`](crate::socket::Ancestors).
pub const ANCESTORS: &str = "ANCESTORS";
/// `USERS`: per slot a hash from a user's id to its workload's [`Subject`](crate::table::Subject).
pub const USERS: &str = "USERS";
/// `SEATS`: array of [`Seat`](crate::socket::Seat), by SO_COOKIE modulo its size: what is kept of a socket.
pub const SEATS: &str = "SEATS";
/// `SEAT_BLOCKS`: array whose elements stand for [`SEAT_BLOCK`] seats each, for walking over `SEATS`: that way the kernel
/// calls a program once for all of them. What is in it means nothing, and it is not pinned.
pub const SEAT_BLOCKS: &str = "SEAT_BLOCKS";
/// `GREETED`: per-CPU array of one [`Greeting`](crate::socket::Greeting).
pub const GREETED: &str = "GREETED";
/// `SOCKETS`: socket-local storage of [`Socket`](crate::socket::Socket), of those that have no seat.
pub const SOCKETS: &str = "SOCKETS";
/// `SEEDS`: hash from SO_COOKIE to [`Seed`](crate::socket::Seed), of sockets older than the programs.
pub const SEEDS: &str = "SEEDS";
/// `FLOWS_OUT`: LRU from [`FlowKey`](crate::flow::FlowKey) to [`OwnedFlow`](crate::flow::OwnedFlow), of the flows
/// that this host began. Apart from those that peers began, so that a flood cannot crowd them out.
pub const FLOWS_OUT: &str = "FLOWS_OUT";
/// `FLOWS_IN`: the same of the flows that peers began.
pub const FLOWS_IN: &str = "FLOWS_IN";
/// `DENIALS`: LRU from [`DenialKey`](crate::flow::DenialKey) to [`Denial`](crate::flow::Denial).
pub const DENIALS: &str = "DENIALS";
/// `COUNTER_KEYS`: hash from [`CounterKey`](crate::counter::CounterKey) to its place in `COUNTERS`.
pub const COUNTER_KEYS: &str = "COUNTER_KEYS";
/// `COUNTERS`: per-CPU array of [`Counter`](crate::counter::Counter). What live sockets have carried is not in it until the
/// agent has it counted, which it does whenever it reads.
pub const COUNTERS: &str = "COUNTERS";
/// `FREE_COUNTERS`: stack of places in `COUNTERS` that no key has yet.
pub const FREE_COUNTERS: &str = "FREE_COUNTERS";
/// `BUDGET`: per-CPU array of one [`Budget`](crate::flow::Budget).
pub const BUDGET: &str = "BUDGET";
/// `LOSSES`: per-CPU array of `u64`, by [`Loss`](crate::counter::Loss).
pub const LOSSES: &str = "LOSSES";
/// `EVENTS`: ring buffer of [`Event`](crate::event::Event)s.
pub const EVENTS: &str = "EVENTS";

/// Patterns that a slot of `PATTERNS` is searched for.
pub const MAX_PATTERNS: u32 = 4096;
/// Cgroups that a slot of `WORKLOADS` has room for.
pub const WORKLOAD_CGROUPS: u32 = 65_536;
/// Entries of `ENDED`.
pub const ENDED_CGROUPS: u32 = 8192;
/// Entries of `ANCESTORS`.
pub const ANCESTOR_ENTRIES: u32 = 16_384;
/// Places in `COUNTERS`.
pub const COUNTER_PLACES: u32 = 8192;
/// Entries of `FLOWS_OUT`, and of `FLOWS_IN`.
pub const FLOW_ENTRIES: u32 = 32_768;
/// Entries of `SEATS`.
pub const SEAT_ENTRIES: u32 = 16_384;
/// Entries of `SEATS` for each of `SEAT_BLOCKS`: what an iterator writes of them has room in its buffer of 8 pages.
pub const SEAT_BLOCK: u32 = 64;
/// Entries of `SEEDS`.
pub const SEED_ENTRIES: u32 = 65_536;
/// Entries of `DENIALS`.
pub const DENIAL_ENTRIES: u32 = 8192;
/// Bytes of `EVENTS`.
pub const EVENT_BYTES: u32 = 4 << 20;
