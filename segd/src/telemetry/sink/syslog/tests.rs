use super::*;

#[test]
fn addresses() {
    for (text, want) in [
        ("unix:/dev/log", Some("unix:/dev/log")),
        ("udp://10.0.0.5", Some("udp://10.0.0.5:514")),
        ("tcp://logs.example.com:6514", Some("tcp://logs.example.com:6514")),
        ("udp://[2001:db8::5]", Some("udp://[2001:db8::5]:514")),
        ("tcp://[::1]:601", Some("tcp://[::1]:601")),
        ("tcp://::1:601", None),
        ("tcp://[::1]601", None),
        ("tcp://[x]:601", None),
        ("tcp://", None),
        ("tcp://a:0", None),
        ("tcp://a:70000", None),
        ("tcp://a b", None),
        ("tcp://a/b", None),
        ("unix:dev/log", None),
        ("tls://a", None),
        ("/dev/log", None),
    ] {
        let address = text.parse::<Address>();
        assert_eq!(address.as_ref().ok().map(ToString::to_string).as_deref(), want, "{text}");
        if let Some(text) = want {
            assert_eq!(text.parse(), address);
        }
    }
}
