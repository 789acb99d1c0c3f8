use std::fmt;

/// A variable with a value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The full name.
    pub variable: String,
    /// The value for people, without secrets.
    pub found: String,
    pub allowed: String,
}

impl Problem {
    pub(super) fn not_unicode(variable: String) -> Self {
        Self {
            variable,
            found: "not UTF-8".to_owned(),
            allowed: "text in UTF-8".to_owned(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {}, expected {}",
            self.variable, self.found, self.allowed
        )
    }
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [problem] => write!(f, "wrong setting: {problem}"),
            problems => {
                write!(f, "{} wrong settings:", problems.len())?;
                problems
                    .iter()
                    .try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Something that is likely not meant so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A variable with our prefix that is no setting: perhaps misspelled,
    /// perhaps of a newer version.
    UnknownVariable {
        name: String,
        /// The full name of the nearest setting, if one is near.
        suggestion: Option<String>,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::UnknownVariable { name, suggestion } = self;
        write!(f, "{} is no setting and is ignored", name.escape_debug())?;
        match suggestion {
            Some(suggestion) => write!(f, "; is {suggestion} meant?"),
            None => Ok(()),
        }
    }
}
