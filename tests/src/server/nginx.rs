//! nginx.

use std::fs;

use anyhow::{Context, Result};

use super::{Server, directory, loopback, program};
use crate::host::Host;

impl Server {
    /// An nginx on `port` that answers every request with 200 and `text`.
    ///
    /// # Errors
    /// When nginx is not installed, or does not start.
    pub fn nginx(host: &Host, port: u16, text: &str) -> Result<Self> {
        let home = directory(host, &format!("nginx{port}"), "root")?;
        let home_text = home.to_str().context("the lab's directory is not UTF-8")?;
        fs::write(home.join("nginx.conf"), config(home_text, port, text)?)?;
        let mut server = host.command(program("nginx", "nginx")?)?;
        server.arg("-p").arg(&home).arg("-c").arg(home.join("nginx.conf")).args(["-e", "stderr"]);
        Self::start(host, server, port, || host.get(loopback(port), "/").is_ok_and(|r| r.status == 200))
    }
}

fn config(home: &str, port: u16, text: &str) -> Result<String> {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {home}/{kind};\n"))
        .concat();
    // nginx reads a JSON string as its own quoted string, but for the variables that a dollar sign would begin.
    let text = serde_json::to_string(&text.replace('$', ""))?;
    Ok(format!(
        "daemon off;\npid {home}/pid;\nworker_processes 1;\nerror_log stderr;\nevents {{}}\n\
         http {{\n  access_log off;\n{temporary}  server {{\n    listen 0.0.0.0:{port};\n    listen [::]:{port};\n\
         \x20   location / {{ default_type text/plain; return 200 {text}; }}\n  }}\n}}\n"
    ))
}
