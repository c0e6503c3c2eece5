//! Builds the call page from `web/` and hands its files to `http::page`, to be
//! embedded into the executable.
//!
//! All work happens in OUT_DIR, on a copy: the source tree is never written to.
//! The npm packages are installed only when the lock file changed. Where npm is
//! missing or fails, for example offline, the build goes on with a page that
//! says how to get the real one. `WEBRTC_SERVER_SKIP_WEB=1` asks for that, and
//! `WEBRTC_SERVER_REQUIRE_WEB=1` makes the build fail instead.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time for installing the npm packages, and for bundling.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);
/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How much of a failed command's output the warning quotes, in lines.
const QUOTED_LINES: usize = 6;

const SKIP: &str = "WEBRTC_SERVER_SKIP_WEB";
const REQUIRE: &str = "WEBRTC_SERVER_REQUIRE_WEB";

/// What to do when the page was not built.
const HOW_TO: &str =
    "install Node.js 20 or newer with npm, then `touch web/package.json && cargo build`";

/// What the page is built from, below `web/`.
const SOURCES: [&str; 4] = ["package.json", "package-lock.json", "build.mjs", "src"];

/// One embedded file: its path on the server, its MIME type, and where it is.
type Asset = (&'static str, &'static str, PathBuf);

fn main() -> Result<(), String> {
    let out_dir = PathBuf::from(env("OUT_DIR")?);
    let web = Path::new(&env("CARGO_MANIFEST_DIR")?).join("../web");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={SKIP}");
    println!("cargo:rerun-if-env-changed={REQUIRE}");
    for source in SOURCES {
        // Cargo looks into directories by itself.
        println!("cargo:rerun-if-changed={}", web.join(source).display());
    }

    let work = out_dir.join("web");
    copy_sources(&web, &work)?;
    let assets = match build_page(&work) {
        Ok(()) => page_assets(&work),
        Err(reason) if is_set(REQUIRE) => return Err(format!("call page not built: {reason}")),
        Err(reason) => {
            for line in reason.lines() {
                println!("cargo:warning=call page not built: {line}");
            }
            println!("cargo:warning=to get it: {HOW_TO}");
            fallback_assets(&work)
        }
    };
    write_asset_list(&assets, &out_dir.join("page_assets.rs"))
}

fn page_assets(work: &Path) -> Vec<Asset> {
    let mut assets = common_assets(work);
    assets.extend([
        ("/", "text/html; charset=utf-8", work.join("src/index.html")),
        (
            "/app.js",
            "text/javascript; charset=utf-8",
            work.join("dist/app.js"),
        ),
        (
            "/licenses.txt",
            "text/plain; charset=utf-8",
            work.join("dist/licenses.txt"),
        ),
    ]);
    assets
}

fn fallback_assets(work: &Path) -> Vec<Asset> {
    let mut assets = common_assets(work);
    assets.push((
        "/",
        "text/html; charset=utf-8",
        work.join("src/without-npm.html"),
    ));
    assets
}

/// What needs no npm.
fn common_assets(work: &Path) -> Vec<Asset> {
    vec![
        (
            "/style.css",
            "text/css; charset=utf-8",
            work.join("src/style.css"),
        ),
        ("/icon.svg", "image/svg+xml", work.join("src/icon.svg")),
        (
            "/API",
            "text/html; charset=utf-8",
            work.join("src/api.html"),
        ),
        (
            "/API/api.js",
            "text/javascript; charset=utf-8",
            work.join("src/api.js"),
        ),
        (
            "/API/api.css",
            "text/css; charset=utf-8",
            work.join("src/api.css"),
        ),
        (
            "/admin",
            "text/html; charset=utf-8",
            work.join("src/admin.html"),
        ),
        (
            "/admin/admin.js",
            "text/javascript; charset=utf-8",
            work.join("src/admin.js"),
        ),
        (
            "/admin/admin.css",
            "text/css; charset=utf-8",
            work.join("src/admin.css"),
        ),
    ]
}

/// Makes `dist/` below `work`, or says why not.
fn build_page(work: &Path) -> Result<(), String> {
    if is_set(SKIP) {
        return Err(format!("{SKIP} is set"));
    }
    install_packages(work)?;
    remove(&work.join("dist"))?;
    run(work, "node", &["build.mjs"])
}

/// `npm ci`, unless the packages of this lock file are there already.
fn install_packages(work: &Path) -> Result<(), String> {
    let lock = read(&work.join("package-lock.json"))?;
    let installed = work.join("installed-lock.json");
    if fs::read(&installed).is_ok_and(|done| done == lock) {
        return Ok(());
    }
    remove(&installed)?;
    run(
        work,
        "npm",
        &[
            "ci",
            // No package may run code while it is installed; esbuild's
            // executable is a plain file of a package of its own.
            "--ignore-scripts",
            "--omit=dev",
            "--prefer-offline",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            // Two packages ask for a newer Node.js than they need.
            "--engine-strict=false",
            "--loglevel=error",
            "--fetch-retries=1",
            "--fetch-retry-mintimeout=1000",
            "--fetch-timeout=30000",
        ],
    )?;
    write(&installed, &lock)
}

/// Copies the sources, so that a file gone from `web/` is gone from `work` too.
fn copy_sources(web: &Path, work: &Path) -> Result<(), String> {
    for source in SOURCES {
        let target = work.join(source);
        remove(&target)?;
        copy(&web.join(source), &target)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    if from.is_dir() {
        let entries = fs::read_dir(from).map_err(|error| failed("read", from, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| failed("read", from, &error))?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    write(to, &read(from)?)
}

/// Runs a command in `work` to its end, within the time limit.
fn run(work: &Path, program: &str, args: &[&str]) -> Result<(), String> {
    let log = work.join(format!("{program}.log"));
    let output = File::create(&log).map_err(|error| failed("write", &log, &error))?;
    let errors = output
        .try_clone()
        .map_err(|error| failed("write", &log, &error))?;
    let mut child = Command::new(program)
        .args(args)
        .current_dir(work)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("{program} does not start: {error}"))?;
    let deadline = Instant::now() + COMMAND_LIMIT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let quote = first_lines(&log);
                return Err(format!("{program} failed ({status})\n{quote}"));
            }
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
            Ok(None) => {
                // Errors here mean that it ended by itself just now.
                let _ = child.kill();
                let _ = child.wait();
                let limit = COMMAND_LIMIT.as_secs();
                return Err(format!("{program} did not end within {limit} s"));
            }
            Err(error) => return Err(format!("{program} cannot be waited for: {error}")),
        }
    }
}

/// The start of a command's output, where npm and esbuild say what is wrong.
fn first_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.take(QUOTED_LINES).collect::<Vec<_>>().join("\n")
}

/// Writes the Rust expression that `http::page` includes.
fn write_asset_list(assets: &[Asset], target: &Path) -> Result<(), String> {
    let mut list = String::from("&[\n");
    for (path, mime, file) in assets {
        let mut hasher = DefaultHasher::new();
        read(file)?.hash(&mut hasher);
        let etag = format!("\"{:016x}\"", hasher.finish());
        writeln!(
            list,
            "    Asset {{ path: {path:?}, mime: {mime:?}, etag: {etag:?}, bytes: include_bytes!({file:?}) }},"
        )
        .map_err(|error| error.to_string())?;
    }
    list.push_str("]\n");
    write(target, list.as_bytes())
}

/// Whether a switch of the build is on.
fn is_set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| !value.is_empty() && value != "0")
}

fn env(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| failed("read", path, &error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| failed("create", parent, &error))?;
    }
    fs::write(path, bytes).map_err(|error| failed("write", path, &error))
}

/// Removes a file or a directory, if it is there.
fn remove(path: &Path) -> Result<(), String> {
    let result = if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        Ok(())
    };
    result.map_err(|error| failed("remove", path, &error))
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}
