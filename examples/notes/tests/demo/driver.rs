//! A real browser, without a window, as a test drives it.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::{Client, ClientBuilder, Locator};
use flautino_lab::{program, wait_until_or_tell};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Chromium and its driver; both end with the test.
pub(crate) struct Browser {
    driver: Driver,
    pub(crate) client: Client,
    _profile: TempDir,
}

/// The driver, which ends the browser with its session.
struct Driver {
    process: Child,
    /// Where it listens, with the session if there is one.
    url: String,
}

impl Browser {
    /// `None` where they are not installed, which fails under `CI=true`.
    pub(crate) async fn start() -> Option<Self> {
        let (binary, driver) = (program("chromium")?, program("chromedriver")?);
        let profile = tempfile::Builder::new().prefix("notes-browser-").tempdir().unwrap();
        let process = Command::new(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut driver = Driver { process, url: String::new() };
        let mut lines = BufReader::new(driver.process.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, port) = line.rsplit_once("successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        driver.url = format!("http://127.0.0.1:{}", port.expect("the driver says its port"));
        // What the driver goes on to say must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let capabilities = json!({
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": {
                "binary": binary,
                // Root has no sandbox, and a container little shared memory.
                "args": [
                    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                    "--hide-scrollbars", format!("--user-data-dir={}", profile.path().display()),
                ],
            },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver.url)
            .await
            .unwrap();
        let id = client.session_id().await.unwrap().unwrap();
        driver.url.push_str(&format!("/session/{id}"));
        Some(Self { driver, client, _profile: profile })
    }

    /// Sends the driver what the client has no method for.
    async fn command(&self, path: &str, body: Value) -> Value {
        let request =
            reqwest::Client::new().post(format!("{}/{path}", self.driver.url)).json(&body);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["value"].clone()
    }

    /// What the page wrote on the console, and what the browser did about it, since the last time.
    pub(crate) async fn console(&self) -> Vec<String> {
        let log = self.command("se/log", json!({ "type": "browser" })).await;
        log.as_array().unwrap().iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// Shows pages as on a screen of this width.
    pub(crate) async fn screen(&self, width: u32, is_dark: bool) {
        let metrics = json!({
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.cdp("Emulation.setEmulatedMedia", media).await;
    }

    async fn cdp(&self, command: &str, parameters: Value) {
        let body = json!({ "cmd": command, "params": parameters });
        self.command("goog/cdp/execute", body).await;
    }

    pub(crate) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    pub(crate) async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    pub(crate) async fn type_into(&self, selector: &str, text: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().send_keys(text).await.unwrap();
    }

    /// Waits until the element is there and its text has this part.
    pub(crate) async fn until_says(&self, selector: &str, part: &str) {
        let said = RefCell::new("it is not there".to_owned());
        let condition = async || {
            let Ok(element) = self.client.find(Locator::Css(selector)).await else { return false };
            let text = element.text().await.unwrap_or_default();
            said.replace(text).clear();
            said.borrow().contains(part)
        };
        let what = format!("`{selector}` says {part:?}");
        wait_until_or_tell(&what, condition, || said.borrow().clone()).await;
    }

    /// Keeps what is shown, where a folder for it is named.
    pub(crate) async fn picture(&self, name: &str) {
        if let Some(folder) = std::env::var_os("SCREENSHOTS") {
            self.run("scrollTo(0, 0)").await;
            let picture = self.client.screenshot().await.unwrap();
            std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), picture).unwrap();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end_session();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Driver {
    /// Without a runtime, since a test may end in a panic.
    fn end_session(&self) -> Option<()> {
        let (address, path) = self.url.strip_prefix("http://")?.split_once('/')?;
        let mut connection = TcpStream::connect(address).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let request = format!("DELETE /{path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        connection.write_all(request.as_bytes()).ok()?;
        connection.read(&mut [0; 64]).ok().map(drop)
    }
}
