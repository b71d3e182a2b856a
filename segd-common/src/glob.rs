//! Which cgroup paths a [`Pattern`] matches, in steps of bounded work: the kernel takes them in `bpf_loop`, user space
//! in a loop of its own.

use crate::table::Pattern;

/// Bytes of a path that are looked at, with a NUL behind it; a longer one is matched by its beginning.
pub const PATH_BYTES: usize = 512;

/// Most steps that are taken for one pattern and path. Far beyond what any pattern without dozens of `/` can take.
pub const STEPS: u32 = 1 << 17;

/// Bytes of `.slice`, in which the names of cgroups end that systemd puts units into.
const SLICE: u32 = 6;

/// In place of a number of bytes: none.
const NONE: u32 = u32::MAX;

/// A pattern and a path being matched.
///
/// The text is tried where it may begin. A `*` takes as little as it can, and one byte more each time that the rest
/// does not match; as it takes no `/`, trying the last `*` again is enough.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Matching {
    /// The path's next byte.
    at: u32,
    /// The text's next byte; [`NONE`]: a place to begin is looked for.
    text: u32,
    /// What of the path was looked at for places to begin.
    sought: u32,
    /// How many bytes of `.slice` end what was looked at.
    slice_tail: u32,
    /// The first byte of the path that the last `*` has not taken.
    star_at: u32,
    /// The byte of the text behind the last `*`; [`NONE`]: there was none.
    star_text: u32,
    /// The path up to the end of the last match, which is the longest, as later beginnings end later; 0: none.
    matched: u32,
}

impl Matching {
    /// Of a pattern, with any path.
    #[inline(always)]
    #[must_use]
    pub const fn new(pattern: &Pattern) -> Self {
        let text = if pattern.anywhere == 0 { 0 } else { NONE };
        Self { at: 0, text, sought: 0, slice_tail: 0, star_at: 0, star_text: NONE, matched: 0 }
    }

    /// How many bytes of the path, from its beginning, are the path of the cgroup or ancestor that matches; of several
    /// the longest. 0: none does.
    #[inline(always)]
    #[must_use]
    pub const fn matched(&self) -> u32 {
        self.matched
    }

    /// Takes a step with the pattern of the beginning and a path of `len` bytes. Returns whether there is another.
    #[inline(always)]
    pub fn step(&mut self, pattern: &Pattern, path: &[u8; PATH_BYTES], len: u32) -> bool {
        let byte_at = |at: u32| if at < len { path.get(at as usize).copied() } else { None };
        if pattern.len == 0 {
            return false;
        }
        if self.text == NONE {
            let Some(byte) = byte_at(self.sought) else {
                return false;
            };
            self.sought += 1;
            if byte != b'/' {
                self.slice_tail = slice_tail(self.slice_tail, byte);
                return true;
            }
            if self.sought > 1 && self.slice_tail != SLICE {
                return false;
            }
            self.slice_tail = 0;
            (self.at, self.text, self.star_text) = (self.sought, 0, NONE);
            return true;
        }
        let byte = byte_at(self.at);
        if self.text >= u32::from(pattern.len) {
            // The text `/` is the root, whose path alone ends with a `/`.
            let is_root = pattern.anywhere == 0 && pattern.len == 1 && self.at == 1;
            if is_root || matches!(byte, None | Some(b'/')) {
                self.matched = self.at;
                return self.begin_again(pattern);
            }
        } else {
            let wanted = pattern.text.get(self.text as usize).copied();
            if wanted == Some(b'*') {
                self.text += 1;
                (self.star_at, self.star_text) = (self.at, self.text);
                return true;
            }
            if byte.is_some() && byte == wanted {
                self.at += 1;
                self.text += 1;
                return true;
            }
        }
        let passed_by = byte_at(self.star_at);
        if self.star_text == NONE || matches!(passed_by, None | Some(b'/')) {
            return self.begin_again(pattern);
        }
        self.star_at += 1;
        (self.at, self.text) = (self.star_at, self.star_text);
        true
    }

    #[inline(always)]
    const fn begin_again(&mut self, pattern: &Pattern) -> bool {
        self.text = NONE;
        pattern.anywhere != 0
    }
}

/// How much of `.slice` a name ends in with this byte, if it ended in `tail` bytes of it before.
#[inline(always)]
const fn slice_tail(tail: u32, byte: u8) -> u32 {
    match (tail, byte) {
        (_, b'.') => 1,
        (1, b's') => 2,
        (2, b'l') => 3,
        (3, b'i') => 4,
        (4, b'c') => 5,
        (5, b'e') => SLICE,
        _ => 0,
    }
}

/// [`Matching::matched`] of a path.
#[cfg(any(test, feature = "user"))]
#[must_use]
pub fn matched(pattern: &Pattern, path: &[u8]) -> u32 {
    let mut bytes = [0; PATH_BYTES];
    let mut len = 0;
    for (to, from) in bytes.iter_mut().zip(path).take(PATH_BYTES - 1) {
        *to = *from;
        len += 1;
    }
    let mut matching = Matching::new(pattern);
    let _ = (0..STEPS).find(|_| !matching.step(pattern, &bytes, len));
    matching.matched()
}

/// The first of the patterns that match the longest part of a path.
#[cfg(any(test, feature = "user"))]
#[must_use]
pub fn best<'a>(patterns: &'a [Pattern], path: &[u8]) -> Option<&'a Pattern> {
    let mut best = (0, None);
    for pattern in patterns {
        let matched = matched(pattern, path);
        if matched > best.0 {
            best = (matched, Some(pattern));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{PATTERN_BYTES, Subject};
    use proptest::prelude::*;
    use std::string::{String, ToString as _};
    use std::vec::Vec;

    fn pattern(text: &str, anywhere: bool) -> Pattern {
        let mut bytes = [0; PATTERN_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let len = u8::try_from(text.len()).unwrap();
        let subject = Subject::default();
        Pattern { subject, len, anywhere: anywhere.into(), pad: [0; 6], text: bytes }
    }

    /// What of the path matches, or nothing.
    fn part<'a>(text: &str, anywhere: bool, path: &'a str) -> &'a str {
        let matched = matched(&pattern(text, anywhere), path.as_bytes()) as usize;
        &path[..matched]
    }

    #[test]
    fn paths_from_the_root() {
        for (text, path, wanted) in [
            ("/a", "/a", "/a"),
            ("/a", "/a/b/c", "/a"),
            ("/a", "/ab", ""),
            ("/a", "/", ""),
            ("/a/b", "/a", ""),
            ("/a/b", "/x/a/b", ""),
            ("/a*", "/abc/d", "/abc"),
            ("/a*", "/a", "/a"),
            ("/*/b", "/a/b/c", "/a/b"),
            ("/*/b", "/b", ""),
            ("/*", "/a/b", "/a"),
            ("/a*b*c", "/abbbcbc", "/abbbcbc"),
            ("/a*b*c", "/abbbcb", ""),
            ("/*a*a*", "/xaxa/y", "/xaxa"),
            ("/a-*/x-*", "/a-1/x-2/q", "/a-1/x-2"),
            ("/", "/", "/"),
            ("/", "/a/b", "/"),
            ("", "/a", ""),
        ] {
            assert_eq!(part(text, false, path), wanted, "{text} {path}");
        }
    }

    #[test]
    fn units_anywhere() {
        for (text, path, wanted) in [
            ("web.service", "/system.slice/web.service", "/system.slice/web.service"),
            ("web.service", "/web.service/worker", "/web.service"),
            ("web.service", "/system.slice/aweb.service", ""),
            ("web.service", "/system.slice/web.service2", ""),
            ("web@*.service", "/s.slice/s-web.slice/web@7.service/x", "/s.slice/s-web.slice/web@7.service"),
            ("web@*.service", "/s.slice/web@.service", "/s.slice/web@.service"),
            ("web@*.service", "/web@a/b.service", ""),
            ("a", "/a/b/a/c", "/a"),
            ("a", "/b/a", ""),
            ("a", "/.slice/a", "/.slice/a"),
            ("a", "/slice/a", ""),
            ("a.slice", "/a.slice/a.slice/b/a.slice", "/a.slice/a.slice"),
            ("a.service", "/user.slice/user@7.service/app.slice/a.service", ""),
            ("a.service", "/system.slice/docker-1.scope/system.slice/a.service", ""),
            ("a/b", "/x.slice/a/b/b", "/x.slice/a/b"),
            ("*", "/a/b", "/a"),
            ("*", "/a.slice/b", "/a.slice/b"),
            ("", "/a", ""),
        ] {
            assert_eq!(part(text, true, path), wanted, "{text} {path}");
        }
    }

    #[test]
    fn the_longest_wins_then_the_first() {
        let user = pattern("user@1000.service", true);
        let app = pattern("app.service", true);
        let slice = pattern("/user.slice", false);
        let also_app = pattern("/*/*/app.service", false);
        let all = [slice, user, app, also_app];
        let best = |path: &str| best(&all, path.as_bytes()).copied();
        assert_eq!(best("/user.slice/user@1000.service/app.service/sub"), Some(also_app));
        assert_eq!(best("/user.slice/user@1000.service/a/app.service"), Some(user));
        assert_eq!(best("/user.slice/app.service/sub"), Some(app));
        assert_eq!(best("/user.slice/user@1000.service/init.scope"), Some(user));
        assert_eq!(best("/user.slice/x"), Some(slice));
        assert_eq!(best("/system.slice/app.service"), Some(app));
        assert_eq!(best("/other"), None);
    }

    #[test]
    fn a_path_beyond_the_bound_is_matched_by_its_beginning() {
        let mut path = String::from("/a/");
        path.push_str(&"x".repeat(600));
        assert_eq!(part("/a", false, &path), "/a");
        assert_eq!(matched(&pattern("/a/*", false), path.as_bytes()) as usize, PATH_BYTES - 1);
    }

    /// Whether a text is a part of a path between two `/`, byte by byte and with every way for a `*` tried.
    fn naive(text: &[u8], part: &[u8]) -> bool {
        match (text, part) {
            ([], []) => true,
            ([b'*', text @ ..], _) => (0..=part.len()).any(|n| {
                let (taken, rest) = part.split_at(n);
                !taken.contains(&b'/') && naive(text, rest)
            }),
            ([a, text @ ..], [b, part @ ..]) => a == b && naive(text, part),
            _ => false,
        }
    }

    fn naively_matched(text: &str, anywhere: bool, path: &str) -> usize {
        let slashes = || path.match_indices('/').map(|(at, _)| at);
        let in_slices = |at: &usize| path[..*at].split('/').skip(1).all(|name| name.ends_with(".slice"));
        let begins: Vec<usize> =
            if anywhere { slashes().filter(in_slices).map(|at| at + 1).collect() } else { [0].into() };
        let ends = slashes().chain([path.len()]);
        let matches = |end: usize| {
            begins.iter().any(|b| *b <= end && naive(text.as_bytes(), &path.as_bytes()[*b..end]))
        };
        ends.filter(|end| matches(*end)).max().unwrap_or(0)
    }

    proptest! {
        /// As a matcher that tries everything says, and within the bound of steps.
        #[test]
        fn as_naively(
            text in "[ab*]{1,3}(/[ab*]{1,3}){0,2}",
            anywhere: bool,
            path in "(/[ab]{1,5}(\\.slice)?){1,4}",
        ) {
            let text = if anywhere { text } else { ["/", &text].concat() };
            let wanted = naively_matched(&text, anywhere, &path);
            prop_assert_eq!(part(&text, anywhere, &path), path[..wanted].to_string());
        }

        /// The worst of texts ends before the bound.
        #[test]
        fn steps_suffice(stars in 1_usize..56, anywhere: bool) {
            let text = ["/", &"*a".repeat(stars - 1), "*b"].concat();
            let mut path = [b'a'; PATH_BYTES];
            path[0] = b'/';
            let pattern = pattern(&text[usize::from(anywhere)..], anywhere);
            let mut matching = Matching::new(&pattern);
            let len = u32::try_from(PATH_BYTES).unwrap();
            prop_assert!((0..STEPS).any(|_| !matching.step(&pattern, &path, len)));
            prop_assert_eq!(matching.matched(), 0);
        }
    }
}
