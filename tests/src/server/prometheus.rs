//! Prometheus: scrapes the agents of a lab and evaluates rules and expressions.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Server, directory, loopback, program};
use crate::host::Host;

/// A Prometheus on a host's loopback that scrapes and evaluates every second. Dropping it kills it.
#[derive(Debug)]
pub struct Prometheus {
    host: Host,
    server: Server,
}

impl Prometheus {
    /// Starts one with a scrape job `segd` for the agents (instance, where its metrics are), and with rule files of
    /// these texts.
    ///
    /// # Errors
    /// When Prometheus is not installed, or does not start.
    pub fn start(host: &Host, port: u16, agents: &[(&str, SocketAddr)], rules: &[String]) -> Result<Self> {
        let home = directory(host, &format!("prometheus{port}"), "root")?;
        let targets: Vec<Value> = agents
            .iter()
            .map(
                |(name, address)| json!({ "targets": [address.to_string()], "labels": { "instance": name } }),
            )
            .collect();
        let files: Vec<_> = (0..rules.len()).map(|n| home.join(format!("rules-{n}.yml"))).collect();
        for (file, text) in files.iter().zip(rules) {
            fs::write(file, text)?;
        }
        let config = home.join("prometheus.yml");
        // JSON is YAML.
        fs::write(
            &config,
            json!({
                "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
                "rule_files": files,
                "scrape_configs": [{ "job_name": "segd", "static_configs": targets }],
            })
            .to_string(),
        )?;
        let mut server = host.command(program("prometheus", "prometheus")?)?;
        server.arg(format!("--config.file={}", config.display()));
        server.arg(format!("--storage.tsdb.path={}", home.join("data").display()));
        server.arg(format!("--web.listen-address={}", loopback(port))).arg("--log.level=warn");
        let ready = || host.get(loopback(port), "/-/ready").is_ok_and(|r| r.status == 200);
        Ok(Self { host: host.clone(), server: Server::start(host, server, port, ready)? })
    }

    /// What an expression gives now: one element a series.
    ///
    /// # Errors
    /// When Prometheus refuses the expression; with what it says.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("query", expression).finish();
        let answer = self.get(&format!("/api/v1/query?{query}")).with_context(|| expression.to_owned())?;
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Names of the alerts that fire now.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub fn firing(&self) -> Result<BTreeSet<String>> {
        let answer = self.get("/api/v1/alerts")?;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing.filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned)).collect())
    }

    fn get(&self, path: &str) -> Result<Value> {
        let response = self.host.get(loopback(self.server.port()), path)?;
        let answer: Value = serde_json::from_str(&response.body).context(response.body)?;
        if answer["status"] != "success" {
            bail!("Prometheus: {}", answer["error"]);
        }
        Ok(answer)
    }
}
