//! The private directory that the workers' sockets live in.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::mkdtemp;

/// Longest path of a unix socket on Linux, bytes: `sun_path` without its end.
const MAX_SOCKET_PATH: usize = 107;
/// Room for the directory's own name and a socket's name, bytes.
const NAMES: usize = 50;

/// A directory of mode 0700 that nobody else can guess or enter; removed with
/// everything in it when dropped.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// Makes the directory under `$XDG_RUNTIME_DIR`, the directory for
    /// temporary files or `/tmp`, whichever works first.
    ///
    /// # Errors
    /// The error of the last place that was tried.
    pub fn create() -> io::Result<Self> {
        let places = [
            std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            Some(std::env::temp_dir()),
            Some(PathBuf::from("/tmp")),
        ];
        Self::create_in(places.into_iter().flatten())
    }

    fn create_in(places: impl Iterator<Item = PathBuf>) -> io::Result<Self> {
        let mut last = io::Error::other("no directory to make it in");
        for place in places {
            if place.as_os_str().as_bytes().len() + NAMES > MAX_SOCKET_PATH {
                last = io::Error::other("the path is too long for a unix socket");
            } else if !place.is_absolute() {
                last = io::Error::other("the path is not absolute");
            } else {
                // Mode 0700, whatever the umask.
                match mkdtemp(&place.join("webrtc-server-XXXXXX")) {
                    Ok(path) => return Ok(Self { path }),
                    Err(error) => last = error.into(),
                }
            }
        }
        Err(last)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it now. Nothing better can be done when that fails: it is
    /// empty of anything that lasts.
    pub fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_private_unique_and_goes_away() {
        let (one, two) = (RuntimeDir::create().unwrap(), RuntimeDir::create().unwrap());
        assert_ne!(one.path(), two.path());
        let mode = std::fs::metadata(one.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::write(one.path().join("left"), "over").unwrap();
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists());
    }

    #[test]
    fn places_that_do_not_work_are_passed_over() {
        let places = ["/nonexistent/place", "relative", &"/x".repeat(60)].map(PathBuf::from);
        let good = std::env::temp_dir();
        let made = RuntimeDir::create_in(places.clone().into_iter().chain([good.clone()]));
        assert!(made.unwrap().path().starts_with(good));
        let error = RuntimeDir::create_in(places.into_iter()).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
