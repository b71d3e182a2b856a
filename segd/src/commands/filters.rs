//! `--zone orders --not --port 53`: filters on the command line, as `hubble observe` has them.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::telemetry::Filter;
use crate::telemetry::filter::Key;

const HEADING: &str = "Filters (of several values, separated by commas or given again, one is enough)";
const NOT: &str = "not";

/// Which flows are wanted. An option for each [`Key`], and `--not`, which negates the one behind it.
#[derive(Debug, Default)]
pub(super) struct Filters(pub(super) Filter);

/// Its id, which no other option of a command has, the name of its value, and help.
fn option(key: Key) -> (&'static str, &'static str, &'static str) {
    match key {
        Key::Verdict => ("filter-verdict", "VERDICT", "Only these verdicts: allowed, audited, denied"),
        Key::Zone => (
            "filter-zone",
            "ZONE",
            "Only flows of this zone or workload, at either end; `*` and `?` in names are wildcards",
        ),
        Key::From => ("filter-from", "WHO", "Only flows that this zone, workload, address or CIDR began"),
        Key::To => ("filter-to", "WHO", "Only flows with this zone, workload, address or CIDR"),
        Key::Workload => ("filter-workload", "WORKLOAD", "Only flows of this local workload"),
        Key::Address => ("filter-address", "ADDRESS", "Only flows with this address or CIDR at either end"),
        Key::Port => ("filter-port", "PORT", "Only this server port: 5432, tcp/5432, udp/4000-4010, tcp"),
        Key::Protocol => {
            ("filter-protocol", "PROTOCOL", "Only this protocol: tcp, udp, icmp, icmpv6, sctp, a number")
        }
        Key::Service => {
            ("filter-service", "SERVICE", "Only this service; `other`: ports that no service names")
        }
        Key::Process => (
            "filter-process",
            "PROCESS",
            "Only this local process: its name, its program's path or file name, or its systemd unit",
        ),
        Key::Direction => ("filter-direction", "DIRECTION", "Only `outbound` or `inbound`"),
        Key::Event => ("filter-event", "EVENT", "Only these events: open, close, deny, revoke, summary"),
        Key::Reason => (
            "filter-reason",
            "REASON",
            "Only what was decided for this reason: no-rule, rule, rule-expired, failsafe, fragment, ...",
        ),
        Key::Rule => ("filter-rule", "RULE", "Only what this rule allowed"),
        Key::Host => ("filter-host", "HOST", "Only what this host recorded"),
    }
}

impl Args for Filters {
    fn augment_args(command: Command) -> Command {
        let not = Arg::new(NOT)
            .long(NOT)
            .num_args(0)
            .action(ArgAction::Append)
            .default_missing_value("true")
            .help_heading(HEADING)
            .help("Only what the filter right behind this does not fit: --not --port 53,123");
        let keys = Key::ALL.map(|key| {
            let (id, value_name, help) = option(key);
            Arg::new(id)
                .long(key.name())
                .value_name(value_name)
                .action(ArgAction::Append)
                .help_heading(HEADING)
                .help(help)
        });
        command.args(keys).arg(not)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Filters {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut nots: Vec<_> = matches.indices_of(NOT).into_iter().flatten().collect();
        let mut filter = Filter::default();
        for key in Key::ALL {
            let (id, ..) = option(key);
            let values = matches.get_many::<String>(id).into_iter().flatten();
            for (value, index) in values.zip(matches.indices_of(id).into_iter().flatten()) {
                // The option itself has an index too.
                let not = nots.iter().position(|not| not + 2 == index).map(|n| nots.swap_remove(n));
                let name = if not.is_some() { format!("not-{key}") } else { key.to_string() };
                filter.set(&name, value).map_err(|error| invalid(&format!("--{key}: {error}")))?;
            }
        }
        if nots.is_empty() {
            Ok(Self(filter))
        } else {
            Err(invalid("--not stands right before the filter that it negates, as in `--not --port 53`"))
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn invalid(message: &str) -> Error {
    Error::raw(ErrorKind::ValueValidation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Vec<String>, String> {
        let command =
            Filters::augment_args(Command::new("flows").arg(Arg::new("follow").short('f').num_args(0)));
        let matches = command.try_get_matches_from(line.split(' ')).unwrap();
        let filters = Filters::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        Ok(filters.0.pairs().into_iter().map(|(key, value)| format!("{key}={value}")).collect())
    }

    #[test]
    fn not_negates_what_is_right_behind_it() {
        for (line, want) in [
            ("flows", &[][..]),
            ("flows --verdict denied,audited --zone a", &["verdict=denied,audited", "zone=a"]),
            ("flows --zone a --zone b", &["zone=a,b"]),
            ("flows --not --zone a --zone b", &["not-zone=a", "zone=b"]),
            ("flows --zone a --not --zone b", &["zone=a", "not-zone=b"]),
            ("flows -f --not --zone=a --not --port=53 --to c", &["not-zone=a", "to=c", "not-port=53"]),
            ("flows --not --port 1 -f --not --port 2", &["not-port=1,2"]),
        ] {
            assert_eq!(parse(line).unwrap(), want, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (line, want) in [
            (
                "flows --not",
                "error: --not stands right before the filter that it negates, as in `--not --port 53`",
            ),
            (
                "flows --not -f --zone a",
                "error: --not stands right before the filter that it negates, as in `--not --port 53`",
            ),
            (
                "flows --not --not --zone a",
                "error: --not stands right before the filter that it negates, as in `--not --port 53`",
            ),
            (
                "flows --verdict deny",
                "error: --verdict: `deny` is no verdict: it must be one of allowed, audited, denied",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err().trim_end(), want, "{line}");
        }
    }
}
