//! Exceptions: rules that people add at run time, for a limited time. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::control::changes::ExceptionRequest;
use crate::policy::Policy;
use crate::policy::exceptions::{InvalidException, validate};
use crate::policy::model::{Exception, ServiceRef};

/// The most exceptions at a time. More is no exception but a policy.
pub const MOST: usize = 256;

/// Why an exception is not made or ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExceptionError {
    /// It names what the policy does not have, or says nothing.
    #[error(transparent)]
    Invalid(#[from] InvalidException),
    /// Longer than segd.toml allows.
    #[error("an exception may live for {} at most, not for {}; see `max_exception_ttl` in segd.toml, or write a rule",
        shown(*limit), shown(*asked))]
    TooLong {
        /// What is allowed.
        limit: Duration,
        /// What was asked for.
        asked: Duration,
    },
    /// There are [`MOST`].
    #[error("there are {MOST} exceptions already; revoke some, or write rules")]
    TooMany,
    /// No such exception.
    #[error("there is no exception `{id}`{help}")]
    Unknown {
        /// What was asked for.
        id: String,
        /// The nearest id, or all.
        help: String,
    },
}

/// A duration as people read it.
fn shown(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| "for ever".to_owned(), |d| format!("{d:#}"))
}

/// The exception that a request asks for.
///
/// # Errors
/// Everything that is wrong with the request.
pub fn make(
    policy: &Policy,
    taken: &[Exception],
    request: &ExceptionRequest,
    limit: Duration,
    by: u32,
    now: Timestamp,
) -> Result<Exception, ExceptionError> {
    let ttl = Duration::from_secs(request.ttl_s);
    if ttl > limit {
        return Err(ExceptionError::TooLong { limit, asked: ttl });
    }
    let exception = Exception {
        id: new_id(taken, now),
        from: request.from.clone(),
        to: request.to.clone(),
        services: request.services.iter().cloned().map(ServiceRef::from).collect(),
        owner: request.owner.trim().to_owned(),
        reason: request.reason.trim().to_owned(),
        created: now,
        expires: now + ttl,
        created_by: by,
    };
    validate(policy, &exception, now)?;
    if live(taken, now).count() >= MOST {
        return Err(ExceptionError::TooMany);
    }
    Ok(exception)
}

/// `YYYYMMDD-HHMMSS` of its beginning in UTC, with a number where that is taken: unlike that of any other, as long as
/// the clock is not set back, and easy to read out on the telephone.
fn new_id(taken: &[Exception], now: Timestamp) -> String {
    let base = now.strftime("%Y%m%d-%H%M%S").to_string();
    let is_free = |id: &String| !taken.iter().any(|e| e.id == *id);
    let numbered = (2..).map(|n| format!("{base}-{n}"));
    std::iter::once(base.clone()).chain(numbered).find(is_free).unwrap_or(base)
}

/// Those that have not expired.
pub fn live(exceptions: &[Exception], now: Timestamp) -> impl Iterator<Item = Exception> {
    exceptions.iter().filter(move |e| e.expires > now).cloned()
}

/// The one with this id.
///
/// # Errors
/// There is none.
pub fn find<'a>(exceptions: &'a [Exception], id: &str) -> Result<&'a Exception, ExceptionError> {
    exceptions.iter().find(|e| e.id == id).ok_or_else(|| {
        let all: Vec<&str> = exceptions.iter().map(|e| e.id.as_str()).collect();
        let help = if all.is_empty() {
            "; there is none".to_owned()
        } else {
            format!("; there is {}", all.join(", "))
        };
        ExceptionError::Unknown { id: id.to_owned(), help }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Sources, load};

    fn policy() -> Policy {
        let text = "[zone.orders]\ncidrs = [\"10.1.0.0/16\"]\n[zone.transport]\ncidrs = [\"10.2.0.0/16\"]\n\
                    [service.postgres]\nports = [\"tcp/5432\"]\n";
        load(Sources::from_texts([("z.toml", text)]), Timestamp::UNIX_EPOCH).unwrap()
    }

    fn request() -> ExceptionRequest {
        ExceptionRequest {
            from: "transport".into(),
            to: "orders".into(),
            services: vec!["postgres".into(), "tcp/22".into()],
            ttl_s: 3600,
            owner: "on-call@example.com".into(),
            reason: "INC-7".into(),
        }
    }

    fn make_now(taken: &[Exception], request: &ExceptionRequest) -> Result<Exception, String> {
        let limit = Duration::from_secs(4 * 3600);
        make(&policy(), taken, request, limit, 7, "2026-05-01T03:04:05Z".parse().unwrap())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn an_exception_has_an_id_and_an_end() {
        let first = make_now(&[], &request()).unwrap();
        assert_eq!((first.id.as_str(), first.created_by), ("20260501-030405", 7));
        assert_eq!(first.expires.to_string(), "2026-05-01T04:04:05Z");
        let second = make_now(std::slice::from_ref(&first), &request()).unwrap();
        assert_eq!(second.id, "20260501-030405-2");
        assert_eq!(live(std::slice::from_ref(&first), first.expires).count(), 0);
        assert_eq!(find(&[first.clone(), second], "20260501-030405"), Ok(&first));
    }

    #[test]
    fn what_is_wrong_is_said_all_at_once() {
        let wrong = ExceptionRequest { to: "order".into(), owner: " ".into(), ..request() };
        let error = make_now(&[], &wrong).unwrap_err();
        assert!(error.contains("`orders`") && error.contains("owner"), "{error}");
        let long = ExceptionRequest { ttl_s: 100_000, ..request() };
        let error = make_now(&[], &long).unwrap_err();
        assert!(error.contains("4h at most") && error.contains("max_exception_ttl"), "{error}");
        let error = find(&[], "x").unwrap_err().to_string();
        assert_eq!(error, "there is no exception `x`; there is none");
    }
}
