//! Cuts the RTC port range into one slice for each worker.

use crate::config::ConfigError;

/// Fewest ports of a worker: one that all its WebRTC transports share, and a
/// pair with RTCP for a plain transport, and one to spare.
pub const MIN_PORTS_PER_WORKER: u32 = 4;

/// Equal, disjoint slices of `min..=max`, first and last port inclusive, one
/// for each of `workers` (at least 1). What cannot be shared equally is left
/// over at the end.
///
/// # Errors
/// [`ConfigError`] when a worker would get fewer than
/// [`MIN_PORTS_PER_WORKER`].
pub fn slices(min: u16, max: u16, workers: usize) -> Result<Vec<(u16, u16)>, ConfigError> {
    let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
    let total = (u32::from(max) + 1).saturating_sub(u32::from(min));
    let size = total / workers;
    if size < MIN_PORTS_PER_WORKER {
        return Err(too_small(min, max, workers));
    }
    // Never beyond `max`, which is a u16: the casts cannot cut anything off.
    let port = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    Ok((0..workers)
        .map(|index| u32::from(min) + index * size)
        .map(|first| (port(first), port(first + size - 1)))
        .collect())
}

fn too_small(min: u16, max: u16, workers: u32) -> ConfigError {
    let last = workers
        .saturating_mul(MIN_PORTS_PER_WORKER)
        .saturating_add(u32::from(min))
        .saturating_sub(1);
    let range = format!(
        "{workers} media workers with at least {MIN_PORTS_PER_WORKER} ports each from \
         MEDIASOUP_MIN_PORT={min} on"
    );
    let allowed = if last <= u32::from(u16::MAX) {
        format!("{last} to 65535 ({range}), or a smaller MEDIASOUP_NUM_WORKERS")
    } else {
        format!("no value ({range}), choose a smaller MEDIASOUP_MIN_PORT or MEDIASOUP_NUM_WORKERS")
    };
    ConfigError::value("MEDIASOUP_MAX_PORT", &max.to_string(), allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_equal_and_disjoint() {
        type Row<'a> = (u16, u16, usize, &'a [(u16, u16)]);
        let table: &[Row] = &[
            (40_000, 49_999, 2, &[(40_000, 44_999), (45_000, 49_999)]),
            (40_000, 49_999, 1, &[(40_000, 49_999)]),
            // Two left over.
            (100, 113, 3, &[(100, 103), (104, 107), (108, 111)]),
            (65_532, 65_535, 1, &[(65_532, 65_535)]),
            (1, 65_535, 1, &[(1, 65_535)]),
            (10, 13, 0, &[(10, 13)]),
        ];
        for (min, max, workers, want) in table {
            assert_eq!(slices(*min, *max, *workers).unwrap(), *want);
        }
    }

    #[test]
    fn a_range_too_small_names_what_is_needed() {
        let error = slices(40_000, 40_010, 3).unwrap_err().to_string();
        assert_eq!(
            error,
            "MEDIASOUP_MAX_PORT=\"40010\" makes no sense; allowed: 40011 to 65535 (3 media \
             workers with at least 4 ports each from MEDIASOUP_MIN_PORT=40000 on), or a smaller \
             MEDIASOUP_NUM_WORKERS"
        );
        let error = slices(65_530, 65_535, 2).unwrap_err().to_string();
        assert!(error.contains("no value"), "{error}");
        assert!(slices(500, 400, 1).is_err());
        assert!(slices(1, 65_535, usize::MAX).is_err());
    }
}
