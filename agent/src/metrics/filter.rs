//! Which lines of a customer's page reach Prometheus: samples named `odoo_…` with their HELP and TYPE, in the plain
//! text format. Pure.
//!
//! Whoever runs an Odoo decides what it answers. With a free choice of names, a customer could report somebody else's
//! hosts as lost, or fill another customer's panels; with a free choice of sizes, fill Prometheus's memory. Each line
//! that is not plainly a sample is left out on its own, because Prometheus would reject the whole page for it. Not
//! here: fetching (relay).

use std::fmt::Write as _;

/// Prefix of all of Odoo's own metrics.
const PREFIX: &str = "odoo_";
/// Longest name of a metric or label; the longest of ours has 42 characters.
const MAX_NAME: usize = 100;
/// Most labels of a sample. Ours have three; with its target's labels a sample stays below `label_limit` in
/// prometheus.yml.
const MAX_LABELS: usize = 10;
/// Most bytes of a label's value, as written: a database's name has 63 at most. Below `label_value_length_limit`.
const MAX_VALUE: usize = 150;
/// Most bytes of a HELP text.
const MAX_HELP: usize = 300;
/// Most samples of a page: `sample_limit`. A busy Odoo has some 500.
const MAX_SAMPLES: usize = 2000;
/// Most bytes of a page: half of `body_size_limit`.
const MAX_PAGE: usize = 512 << 10;
/// The metric types that the format knows.
const KINDS: [&str; 5] = ["counter", "gauge", "histogram", "summary", "untyped"];

enum Line {
    Sample,
    About,
    /// An empty line or a comment: dropped without being counted.
    Nothing,
    Foreign,
}

/// The part of the page that may be passed on. If lines were left out, a comment at its end says how many.
pub fn only_odoo(page: &[u8]) -> String {
    let mut out = String::with_capacity(page.len().min(MAX_PAGE));
    let (mut samples, mut left_out) = (0, 0);
    for line in page.split(|byte| *byte == b'\n') {
        let text = std::str::from_utf8(line).ok();
        let kind = text.map_or(Line::Foreign, kind_of);
        let fits = text.is_some_and(|text| out.len() + text.len() < MAX_PAGE);
        match (kind, text) {
            (Line::Nothing, _) => {}
            (Line::Sample, Some(text)) if fits && samples < MAX_SAMPLES => {
                samples += 1;
                out.push_str(text);
                out.push('\n');
            }
            (Line::About, Some(text)) if fits => {
                out.push_str(text);
                out.push('\n');
            }
            _ => left_out += 1,
        }
    }
    if left_out > 0 {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "# {left_out} lines were no metrics of Odoo, or too many, and are left out"
        );
    }
    out
}

/// Of that, the samples by wanted names alone: the rest is not even looked at, which is most of the work.
pub fn only_samples(page: &[u8], is_wanted: fn(&str) -> bool) -> String {
    let mut out = String::new();
    let wanted = page.split(|byte| *byte == b'\n').filter(|line| {
        let end = line.iter().position(|byte| matches!(byte, b'{' | b' '));
        let name = end.and_then(|end| std::str::from_utf8(line.get(..end)?).ok());
        name.is_some_and(is_wanted)
    });
    for line in wanted.take(MAX_SAMPLES) {
        let text = std::str::from_utf8(line).ok();
        if let Some(text) = text.filter(|text| is_sample(text).is_some()) {
            out.push_str(text);
            out.push('\n');
        }
    }
    out
}

fn kind_of(line: &str) -> Line {
    match line.strip_prefix('#') {
        Some(remark) if is_about(remark) => Line::About,
        Some(remark) if !remark.contains(" HELP ") && !remark.contains(" TYPE ") => Line::Nothing,
        None if line.trim().is_empty() => Line::Nothing,
        None if is_sample(line).is_some() => Line::Sample,
        _ => Line::Foreign,
    }
}

/// Accepts ` HELP odoo_x …` or ` TYPE odoo_x counter`.
fn is_about(remark: &str) -> bool {
    let mut words = remark.splitn(4, ' ');
    let (Some(""), Some(what), Some(name), Some(rest)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let fine = match what {
        "HELP" => !rest.is_empty() && rest.len() <= MAX_HELP && !rest.contains(char::is_control),
        "TYPE" => KINDS.contains(&rest),
        _ => false,
    };
    fine && is_own(name)
}

/// Accepts `odoo_x{a="b"} 1`, without a timestamp: Prometheus sets the time.
fn is_sample(line: &str) -> Option<()> {
    let (name, rest) = line.split_at(line.find(|c| !is_word(c)).unwrap_or(line.len()));
    let rest = match rest.strip_prefix('{') {
        Some(inside) => after_labels(inside)?,
        None => rest,
    };
    let number = rest.strip_prefix(' ')?;
    (is_own(name) && number.parse::<f64>().is_ok()).then_some(())
}

fn is_own(name: &str) -> bool {
    name.starts_with(PREFIX) && name.len() <= MAX_NAME && name.chars().all(is_word)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Returns what follows the closing brace.
fn after_labels(mut rest: &str) -> Option<&str> {
    for _ in 0..MAX_LABELS {
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (key, after) = rest.split_once("=\"")?;
        let begins = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        // Names that start with two underscores are Prometheus's own: `__name__` is the metric's.
        if !begins || key.len() > MAX_NAME || key.starts_with("__") || !key.chars().all(is_word) {
            return None;
        }
        rest = after_value(after)?;
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.strip_prefix('}'),
        }
    }
    rest.strip_prefix('}')
}

/// Returns what follows the closing quote.
fn after_value(text: &str) -> Option<&str> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if at > MAX_VALUE || c.is_control() => return None,
            '\\' | '"' | 'n' if escaped => escaped = false,
            _ if escaped => return None,
            '\\' => escaped = true,
            '"' => return Some(&text[at + 1..]),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP odoo_http_requests_total HTTP requests answered, scrapes not counted\n\
        # TYPE odoo_http_requests_total counter\n\
        odoo_http_requests_total{method=\"GET\",code=\"200\",route=\"web\"} 12\n\
        odoo_sql_query_duration_seconds_bucket{le=\"+Inf\"} 3\n\
        odoo_database_size{datname=\"a \\\"b\\\" {c} \\\\\"} 1.5e+07\n\
        odoo_cron_lag_seconds NaN\n";

    #[test]
    fn odoos_own_page_passes_as_it_is() {
        assert_eq!(only_odoo(GOOD.as_bytes()), GOOD);
        assert_eq!(only_odoo(format!("{GOOD}# EOF\n\n").as_bytes()), GOOD);
    }

    #[test]
    fn a_forged_page_says_nothing_of_the_platform_or_of_others() {
        let forged = [
            "isyone_host_state{host=\"h1\",state=\"lost\"} 1",
            "isyone_edge_up{edge=\"192.0.2.80:443\"} 0",
            "container_cpu_usage_seconds_total{container=\"odoo_beta\",tenant=\"beta\"} 9",
            "{\"isyone_edge_up\"} 0",
            "{__name__=\"isyone_edge_up\"} 0",
            "odoo_x{__name__=\"isyone_edge_up\"} 0",
            "odoo_x{\"isyone_edge_up\"} 0",
            "odoo_x{\"a b\"=\"c\"} 0",
            "odoo_x:isyone 0",
            " isyone_edge_up 0",
            "\tisyone_edge_up 0",
            "odoo_x 0\risyone_edge_up 0",
            "odoo_x{a=\"b\\",
            "\"} 0",
            "odoo_x{a=\"\\x\"} 0",
            "odoo_x{a=\"b\"c=\"d\"} 0",
            "odoo_x{a=\"b\"} 0 1700000000000",
            "odoo_x{a=\"b\"} 0 # {trace=\"c\"} 1",
            "odoo_x zero",
            "odoo_x",
            "# HELP isyone_edge_up It is down",
            "# TYPE isyone_edge_up gauge",
            "# TYPE odoo_x gauge counter",
            "# TYPE odoo_x wonderful",
            "#\tTYPE isyone_edge_up gauge",
        ];
        let page = format!("{}\n{GOOD}", forged.join("\n"));
        let passed = only_odoo(page.as_bytes());
        // A line with a tab after `#` is a plain comment, which is dropped but not counted.
        let note = format!(
            "# {} lines were no metrics of Odoo, or too many, and are left out\n",
            forged.len() - 1
        );
        assert_eq!(passed, format!("{GOOD}{note}"));
        assert!(only_odoo(b"odoo_x{a=\"\xff\"} 1\n").starts_with("# 1 lines"));
    }

    #[test]
    fn of_a_page_the_named_samples_alone_can_be_had() {
        let forged = "odoo_cron_lag_seconds 1 1700000000000\nodoo_cron_lag_seconds zero\nodoo_cron_lag_seconds\nodoo_cron_lag_seconds_x 1\n";
        let page = format!("{GOOD}{forged}");
        let wanted =
            |name: &str| ["odoo_http_requests_total", "odoo_cron_lag_seconds"].contains(&name);
        let lines: Vec<&str> = GOOD.lines().collect();
        assert_eq!(
            only_samples(page.as_bytes(), wanted),
            format!("{}\n{}\n", lines[2], lines[5])
        );
        assert_eq!(only_samples(page.as_bytes(), |_| false), "");
        let many = "odoo_cron_lag_seconds 1\n".repeat(MAX_SAMPLES + 5);
        let kept = only_samples(many.as_bytes(), wanted);
        assert_eq!(kept.lines().count(), MAX_SAMPLES);
    }

    #[test]
    fn sizes_are_bounded() {
        let line = |labels: usize, length: usize| {
            let labels: Vec<String> = (0..labels)
                .map(|n| format!("l{n}=\"{}\"", "v".repeat(length)))
                .collect();
            format!("odoo_x{{{}}} 1\n", labels.join(","))
        };
        let passes = |line: String| only_odoo(line.as_bytes()) == line;
        assert!(passes(line(MAX_LABELS, MAX_VALUE)));
        assert!(!passes(line(MAX_LABELS + 1, 1)));
        assert!(!passes(line(1, MAX_VALUE + 1)));
        assert!(!passes(format!("odoo_{} 1\n", "x".repeat(MAX_NAME))));
        assert!(!passes(format!(
            "# HELP odoo_x {}\n",
            "x".repeat(MAX_HELP + 1)
        )));
        let many: String = (0..MAX_SAMPLES + 5)
            .map(|n| format!("odoo_x{{n=\"{n}\"}} 1\n"))
            .collect();
        let passed = only_odoo(many.as_bytes());
        assert_eq!(passed.lines().count(), MAX_SAMPLES + 1);
        assert!(
            passed.ends_with("# 5 lines were no metrics of Odoo, or too many, and are left out\n")
        );
        let long = "# HELP odoo_x some words of explanation\n".repeat(100_000);
        assert!(only_odoo(long.as_bytes()).len() < MAX_PAGE + 100);
    }
}
