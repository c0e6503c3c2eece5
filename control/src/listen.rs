//! What this machine has to grant before the server can start: enough open
//! files and memory, the port of HTTPS, the address of the media.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::info;

use crate::http;

/// An address or port that cannot be listened on; one line that names its
/// variable.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The listener of HTTPS and WSS.
    #[error("{variable}: cannot listen on {address}: {error}")]
    Https {
        /// The variable that is to blame.
        variable: &'static str,
        /// What was tried.
        address: SocketAddr,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The listener of the admin paths.
    #[error("ADMIN_LISTEN: cannot listen on {address}: {error}")]
    Admin {
        /// What was tried.
        address: SocketAddr,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The address of the media sockets.
    #[error("MEDIASOUP_LISTEN_IP: cannot bind {ip}: {error}")]
    Media {
        /// What was tried.
        ip: IpAddr,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The ports of one worker.
    #[error(
        "MEDIASOUP_MIN_PORT, MEDIASOUP_MAX_PORT: no UDP port of {first}–{last} is free on {ip}"
    )]
    Slice {
        /// What was tried.
        ip: IpAddr,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
}

/// Lets this process, and the workers that it starts later, open as many files and
/// use as much memory as the hard limits allow. Each client is an open file, and the
/// usual soft limit of 1024 is for programs that use `select`.
pub fn raise_limits() {
    for (resource, what) in [
        (Resource::RLIMIT_NOFILE, "open files"),
        (Resource::RLIMIT_AS, "address space"),
        (Resource::RLIMIT_DATA, "data"),
    ] {
        let raised = getrlimit(resource).and_then(|(soft, hard)| match soft < hard {
            true => setrlimit(resource, hard, hard),
            false => Ok(()),
        });
        if let Err(error) = raised {
            info!(%error, "cannot raise the limit of {what}");
        }
    }
}

/// Listens for HTTPS and WSS.
///
/// # Errors
/// [`ListenError::Https`]
pub fn https(ip: IpAddr, port: u16) -> Result<TcpListener, ListenError> {
    let address = SocketAddr::new(ip, port);
    http::serve::bind(address).map_err(|error| ListenError::Https {
        variable: match is_about_the_address(&error) {
            true => "PROTOO_LISTEN_IP",
            false => "PROTOO_LISTEN_PORT",
        },
        address,
        error,
    })
}

/// Listens for the admin paths.
///
/// # Errors
/// [`ListenError::Admin`]
pub fn admin(address: SocketAddr) -> Result<TcpListener, ListenError> {
    http::serve::bind(address).map_err(|error| ListenError::Admin { address, error })
}

/// Checks that media sockets can bind to `ip`, so that a mistake is told once
/// and by name instead of by every worker.
///
/// # Errors
/// [`ListenError::Media`]
pub fn check_media(ip: IpAddr) -> Result<(), ListenError> {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => Ok(()),
        Err(error) => Err(ListenError::Media { ip, error }),
    }
}

/// Checks that a worker would find a port in its slice, first and last port
/// inclusive.
///
/// # Errors
/// [`ListenError::Slice`], or [`ListenError::Media`] when ports are not what
/// is wrong.
pub fn check_slice(ip: IpAddr, (first, last): (u16, u16)) -> Result<(), ListenError> {
    for port in first..=last {
        match UdpSocket::bind((ip, port)) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(ListenError::Media { ip, error }),
        }
    }
    Err(ListenError::Slice { ip, first, last })
}

/// The machine does not have the address, or not its family.
fn is_about_the_address(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let about = [
        Errno::EADDRNOTAVAIL,
        Errno::EAFNOSUPPORT,
        Errno::EPROTONOSUPPORT,
        // A link-local address without its interface.
        Errno::EINVAL,
    ];
    let code = error.raw_os_error().map(Errno::from_raw);
    code.is_some_and(|code| about.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address of documentation (RFC 5737): no machine has it.
    const NOBODYS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn errors_name_the_variable_that_is_to_blame() {
        let error = https(NOBODYS, 4443).unwrap_err().to_string();
        assert!(
            error.starts_with("PROTOO_LISTEN_IP: cannot listen on 192.0.2.1:4443: "),
            "{error}"
        );
        let taken = https(LOOPBACK, 0).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = https(LOOPBACK, port).unwrap_err().to_string();
        assert!(
            error.starts_with("PROTOO_LISTEN_PORT: cannot listen on 127.0.0.1:"),
            "{error}"
        );
        let error = admin(SocketAddr::new(LOOPBACK, port)).unwrap_err();
        let want = format!("ADMIN_LISTEN: cannot listen on 127.0.0.1:{port}: ");
        assert!(error.to_string().starts_with(&want), "{error}");
        let error = check_media(NOBODYS).unwrap_err().to_string();
        assert!(
            error.starts_with("MEDIASOUP_LISTEN_IP: cannot bind 192.0.2.1: "),
            "{error}"
        );
        check_media(LOOPBACK).unwrap();
    }

    #[test]
    fn a_slice_is_full_when_every_port_of_it_is_taken() {
        let taken = UdpSocket::bind((LOOPBACK, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = check_slice(LOOPBACK, (port, port)).unwrap_err().to_string();
        let want = format!("no UDP port of {port}–{port} is free on 127.0.0.1");
        assert!(error.ends_with(&want), "{error}");
        assert!(error.starts_with("MEDIASOUP_MIN_PORT, "), "{error}");
        drop(taken);
        check_slice(LOOPBACK, (port, port)).unwrap();
        let error = check_slice(NOBODYS, (port, port)).unwrap_err().to_string();
        assert!(error.starts_with("MEDIASOUP_LISTEN_IP: "), "{error}");
    }
}
