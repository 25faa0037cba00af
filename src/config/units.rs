//! Sizes and durations as people write them.

use std::time::Duration;

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse::<f64>().ok()?;
    number.is_finite().then_some((number, unit.trim()))
}

/// `2MiB`, `512KiB`, `10MB`, `4096B`: bytes. A fraction of a byte is refused.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit: u64 = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let bytes = number * unit as f64;
    // Above 2^53 a float no longer counts single bytes.
    (bytes.fract() == 0.0 && bytes < 9e15).then_some(bytes as u64)
}

/// `250ms`, `30s`, `5m`, `1h`.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "ms" => number / 1_000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return None,
    };
    // A year is past any use and far from overflow.
    (seconds <= 366.0 * 86_400.0).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_need_a_unit() {
        assert_eq!(size("2MiB"), Some(2 << 20));
        assert_eq!(size("1.5 KiB"), Some(1536));
        assert_eq!(duration("5m"), Some(Duration::from_mins(5)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "2", "MiB", "1.5B", "-1MB", "1e9GiB", "99999999999GiB", "1..2MB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
        for bad in ["", "5", "m", "-1s", "9999999h", "1 week"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
