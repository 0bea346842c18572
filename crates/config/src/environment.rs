//! Variables that were meant as settings and are none.

use std::ffi::{OsStr, OsString};

use super::error::{ConfigError, ConfigErrorKind as Kind, Origin, Problem, shown};
use super::schema::schema;

/// The variables whose other spellings are refused too: without them a fleet would run open.
const GUARDED: &str = "PCCL_AUTH_";

/// Refuses variables that nobody would read: `PCCL_` names with two underscores that are no setting's, a wrongly spelled
/// `PCCL_AUTH_…`, and settings whose value is no text. What is empty counts as not set.
///
/// # Errors
/// The first of them by name.
pub fn check_environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), ConfigError> {
    let known: Vec<String> = schema().iter().flat_map(super::Key::variables).collect();
    let mut ours: Vec<(String, OsString)> = variables
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, value)| {
            Some((name.into_string().ok().filter(|n| n.starts_with("PCCL_"))?, value))
        })
        .collect();
    ours.sort();
    ours.iter().try_for_each(|(name, value)| check(name, value, &known))
}

fn check(name: &str, value: &OsStr, known: &[String]) -> Result<(), ConfigError> {
    let refuse = |problem: Problem| {
        Err(ConfigError::new(problem, None, Origin::Env { variable: shown(name).replace('`', "") }, None))
    };
    if known.iter().any(|known| known == name) {
        return match value.to_str() {
            Some(_) => Ok(()),
            None => refuse(Problem::new(Kind::WrongType, "the value of this variable is not valid UTF-8")),
        };
    }
    let meant = name["PCCL_".len()..].contains("__");
    if !meant && !name.starts_with(GUARDED) {
        return Ok(());
    }
    let near = known.iter().map(|known| (strsim::osa_distance(known, name), known)).min();
    let near = near.filter(|(distance, _)| *distance <= 3);
    match near {
        Some((_, near)) => refuse(
            Problem::new(Kind::UnknownKey, "no setting has this variable")
                .hint(format!("did you mean {near}?")),
        ),
        None if meant => refuse(
            Problem::new(Kind::UnknownKey, "no setting has this variable")
                .hint("`pccl config reference` has all of them; two underscores part section and key"),
        ),
        // Such as what Kubernetes sets for a Service of this name.
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn refused(name: &str, value: &[u8]) -> String {
        match check_environment([(name.into(), OsString::from_vec(value.to_vec()))]) {
            Ok(()) => panic!("{name} was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_looks_like_a_setting_and_is_none_is_refused() {
        let text = refused("PCCL_NETWORK__TLS__CERT_FLIE", b"x");
        assert!(
            text.contains("PCCL_NETWORK__TLS__CERT_FLIE: ") && text.contains("PCCL_NETWORK__TLS__CERT_FILE?")
        );
        for name in ["PCCL_AUTH_SECRTE", "PCCL_AUTH_SECRET_FILE", "PCCL_AUTH_ENABLED", "PCCL_AUTH_SECRETS"] {
            let text = refused(name, b"0123456789abcdef0123");
            assert!(text.contains("did you mean PCCL_AUTH_"), "{text}");
            assert!(!text.contains("0123456789"), "{text}");
        }
        assert!(refused("PCCL_MADE__UP", b"x").contains("pccl config reference"));
        assert!(refused("PCCL_AUTH_SECRET", b"0123456789abcdef\xff").contains("not valid UTF-8"));
    }

    #[test]
    fn settings_and_what_others_set_are_let_be() {
        let fine = [
            ("PCCL_AUTH_SECRET", "x"),
            ("PCCL_NETWORK__MASTER_PORT", "x"),
            ("PCCL_NETWORK__MASTER_PROT", ""),
            ("PCCL_MASTER_SERVICE_HOST", "10.0.0.1"),
            ("PCCL_MASTER_PORT_7117_TCP", "tcp://10.0.0.1:7117"),
            ("PCCL_AUTH_PROXY_SERVICE_HOST", "10.0.0.1"),
            ("PCCL_STORE_URL", "x"),
            ("HOME__X", "x"),
        ];
        check_environment(fine.map(|(name, value)| (name.into(), value.into()))).unwrap();
        check_environment([("HOME".into(), OsString::from_vec(vec![0xff]))]).unwrap();
    }
}
