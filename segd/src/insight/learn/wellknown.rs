//! What ports are commonly called. Each port has one name and each name one port, so that a service that is proposed
//! by name allows nothing beside what was seen.

use segd_common::traffic::protocol::{ICMP, ICMPV6, TCP, UDP};

use crate::policy::ports::PortSpec;

const PORTS: [(u8, u16, &str); 103] = [
    (TCP, 20, "ftp-data"),
    (TCP, 21, "ftp"),
    (TCP, 22, "ssh"),
    (TCP, 23, "telnet"),
    (TCP, 25, "smtp"),
    (TCP, 49, "tacacs"),
    (UDP, 53, "dns"),
    (TCP, 53, "dns-tcp"),
    (UDP, 67, "dhcp"),
    (UDP, 68, "dhcp-client"),
    (UDP, 69, "tftp"),
    (TCP, 80, "http"),
    (TCP, 88, "kerberos"),
    (UDP, 88, "kerberos-udp"),
    (TCP, 102, "iso-tsap"),
    (TCP, 110, "pop3"),
    (TCP, 111, "rpcbind"),
    (UDP, 111, "rpcbind-udp"),
    (UDP, 123, "ntp"),
    (TCP, 135, "msrpc"),
    (UDP, 137, "netbios-ns"),
    (UDP, 138, "netbios-dgm"),
    (TCP, 139, "netbios-ssn"),
    (TCP, 143, "imap"),
    (UDP, 161, "snmp"),
    (UDP, 162, "snmp-trap"),
    (TCP, 179, "bgp"),
    (TCP, 389, "ldap"),
    (UDP, 389, "ldap-udp"),
    (TCP, 443, "https"),
    (UDP, 443, "http3"),
    (TCP, 445, "smb"),
    (TCP, 464, "kpasswd"),
    (TCP, 465, "smtps"),
    (TCP, 502, "modbus"),
    (UDP, 514, "syslog"),
    (TCP, 514, "syslog-tcp"),
    (TCP, 515, "lpd"),
    (TCP, 554, "rtsp"),
    (TCP, 587, "submission"),
    (TCP, 631, "ipp"),
    (TCP, 636, "ldaps"),
    (TCP, 853, "dns-tls"),
    (TCP, 873, "rsync"),
    (TCP, 989, "ftps-data"),
    (TCP, 990, "ftps"),
    (TCP, 993, "imaps"),
    (TCP, 995, "pop3s"),
    (TCP, 1080, "socks"),
    (TCP, 1414, "ibm-mq"),
    (TCP, 1433, "mssql"),
    (UDP, 1434, "mssql-browser"),
    (TCP, 1521, "oracle"),
    (UDP, 1812, "radius"),
    (UDP, 1813, "radius-accounting"),
    (TCP, 1883, "mqtt"),
    (TCP, 2049, "nfs"),
    (TCP, 2181, "zookeeper"),
    (TCP, 2379, "etcd"),
    (TCP, 2380, "etcd-peer"),
    (TCP, 3128, "squid"),
    (TCP, 3268, "ldap-gc"),
    (TCP, 3260, "iscsi"),
    (TCP, 3306, "mysql"),
    (TCP, 3389, "rdp"),
    (UDP, 4789, "vxlan"),
    (TCP, 4840, "opc-ua"),
    (UDP, 500, "ike"),
    (UDP, 4500, "ike-nat"),
    (TCP, 5060, "sip"),
    (UDP, 5060, "sip-udp"),
    (TCP, 5044, "beats"),
    (UDP, 5353, "mdns"),
    (TCP, 5432, "postgres"),
    (TCP, 5671, "amqps"),
    (TCP, 5672, "amqp"),
    (TCP, 5900, "vnc"),
    (TCP, 5985, "winrm"),
    (TCP, 5986, "winrm-tls"),
    (TCP, 6379, "redis"),
    (TCP, 6380, "redis-tls"),
    (TCP, 6443, "kubernetes-api"),
    (TCP, 6514, "syslog-tls"),
    (TCP, 8080, "http-alt"),
    (TCP, 8443, "https-alt"),
    (TCP, 8086, "influxdb"),
    (TCP, 8200, "vault"),
    (TCP, 8500, "consul"),
    (TCP, 8883, "mqtts"),
    (TCP, 9042, "cassandra"),
    (TCP, 9090, "prometheus"),
    (TCP, 9092, "kafka"),
    (TCP, 9093, "kafka-tls"),
    (TCP, 9200, "elasticsearch"),
    (TCP, 9300, "elasticsearch-nodes"),
    (TCP, 9418, "git"),
    (TCP, 10050, "zabbix-agent"),
    (TCP, 10051, "zabbix-server"),
    (TCP, 11211, "memcached"),
    (TCP, 15672, "rabbitmq-admin"),
    (TCP, 27017, "mongodb"),
    (TCP, 44818, "ethernet-ip"),
    (UDP, 2222, "ethernet-ip-io"),
];

/// The name of exactly these ports, if they have one.
pub(super) fn name(spec: &PortSpec) -> Option<&'static str> {
    let port = match spec.protocol {
        ICMP => return (spec.first >> 8 == 8 && !spec.is_whole()).then_some("ping"),
        ICMPV6 => return (spec.first >> 8 == 128 && !spec.is_whole()).then_some("ping6"),
        _ if spec.first == spec.last => spec.first,
        _ => return None,
    };
    PORTS.iter().find(|(protocol, n, _)| (*protocol, *n) == (spec.protocol, port)).map(|(.., name)| *name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_port_and_every_name_is_there_once() {
        let ports: BTreeSet<(u8, u16)> = PORTS.iter().map(|(protocol, port, _)| (*protocol, *port)).collect();
        let names: BTreeSet<&str> = PORTS.iter().map(|(.., name)| *name).collect();
        assert_eq!((ports.len(), names.len()), (PORTS.len(), PORTS.len()));
        let named = |text: &str| name(&text.parse().unwrap());
        assert_eq!(named("tcp/5432"), Some("postgres"));
        assert_eq!(named("icmp/echo"), Some("ping"));
        assert_eq!((named("icmp"), named("tcp/5432-5433"), named("udp/5432")), (None, None, None));
    }
}
