//! Reads the part of IoT Hub's query language that the emulator understands. Pure.

use serde_json::Value;

use super::queries::{Comparison, Condition, Path, Query, Select};

/// What the language is, for whoever used more of it.
const UNDERSTOOD: &str = "the emulator understands: SELECT * | COUNT() AS name | path [AS name], … FROM devices \
    [WHERE condition], where a condition is path (= | != | <> | < | <= | > | >=) value, path [NOT] IN | NIN [value, …], \
    is_defined(path), or several of them with AND, OR, NOT and parentheses";
/// Longest query, in bytes.
const MAX_QUERY: usize = 16 * 1024;
/// Parentheses and NOTs within each other.
const MAX_DEPTH: usize = 32;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(serde_json::Number),
    Sign(&'static str),
}

/// Two-character signs first.
const SIGNS: [&str; 17] =
    ["!=", "<>", "<=", ">=", "[[", "]]", "=", "<", ">", "(", ")", "[", "]", ",", "*", ".", ";"];

/// Reads a query.
///
/// # Errors
/// What is wrong where, and what is understood.
pub(super) fn parse(text: &str) -> Result<Query, String> {
    let fault = |what: String| format!("{what}; {UNDERSTOOD}");
    if text.len() > MAX_QUERY {
        return Err(format!("the query is over {MAX_QUERY} bytes"));
    }
    let mut parser = Parser { tokens: tokens(text).map_err(fault)?, at: 0 };
    parser.query().map_err(fault)
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let used = if first == '\'' || first == '"' {
            let end = rest[1..].find(first).ok_or("a text has no end")?;
            tokens.push(Token::Text(rest[1..=end].to_owned()));
            end + 2
        } else if first.is_ascii_digit() || first == '-' {
            let end = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
            let end = end.map_or(rest.len(), |end| end + 1);
            let number = rest[..end].parse().map_err(|_| format!("{:?} is no number", &rest[..end]))?;
            tokens.push(Token::Number(number));
            end
        } else if first.is_alphabetic() || first == '_' || first == '$' {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || "_$-:".contains(c)));
            let end = end.unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
            let sign = sign.ok_or_else(|| format!("{first:?} has no meaning here"))?;
            tokens.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest[used..].trim_start();
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn query(&mut self) -> Result<Query, String> {
        self.expect_word("SELECT")?;
        let select = self.select()?;
        self.expect_word("FROM")?;
        self.expect_word("devices")?;
        let condition = if self.word("WHERE") { Some(self.either(0)?) } else { None };
        self.sign(";");
        match self.tokens.get(self.at) {
            None => Ok(Query { select, condition }),
            Some(_) => Err(self.unexpected("the end")),
        }
    }

    fn select(&mut self) -> Result<Select, String> {
        if self.sign("*") {
            return Ok(Select::All);
        }
        if self.word("COUNT") {
            self.expect_sign("(")?;
            self.expect_sign(")")?;
            self.expect_word("AS")?;
            return Ok(Select::Count(self.name()?));
        }
        let mut columns = Vec::new();
        loop {
            let path = self.path()?;
            let name =
                if self.word("AS") { self.name()? } else { path.0.last().cloned().unwrap_or_default() };
            columns.push((name, path));
            if !self.sign(",") {
                return Ok(Select::Some(columns));
            }
        }
    }

    fn either(&mut self, depth: usize) -> Result<Condition, String> {
        let mut left = self.both(depth)?;
        while self.word("OR") {
            left = Condition::Or(Box::new(left), Box::new(self.both(depth)?));
        }
        Ok(left)
    }

    fn both(&mut self, depth: usize) -> Result<Condition, String> {
        let mut left = self.single(depth)?;
        while self.word("AND") {
            left = Condition::And(Box::new(left), Box::new(self.single(depth)?));
        }
        Ok(left)
    }

    fn single(&mut self, depth: usize) -> Result<Condition, String> {
        if depth > MAX_DEPTH {
            return Err(format!("the condition is more than {MAX_DEPTH} levels deep"));
        }
        if self.word("NOT") {
            return Ok(Condition::Not(Box::new(self.single(depth + 1)?)));
        }
        if self.sign("(") {
            let inner = self.either(depth + 1)?;
            self.expect_sign(")")?;
            return Ok(inner);
        }
        if self.word("is_defined") {
            self.expect_sign("(")?;
            let path = self.path()?;
            self.expect_sign(")")?;
            return Ok(Condition::IsDefined(path));
        }
        let path = self.path()?;
        if self.word("IN") {
            return Ok(Condition::In(path, self.list()?));
        }
        if self.word("NIN") || (self.word("NOT") && self.word("IN")) {
            return Ok(Condition::Not(Box::new(Condition::In(path, self.list()?))));
        }
        let comparison = self.comparison()?;
        Ok(Condition::Compare(path, comparison, self.value()?))
    }

    fn comparison(&mut self) -> Result<Comparison, String> {
        for (sign, comparison) in [
            ("=", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<>", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            ("<", Comparison::Less),
            (">=", Comparison::GreaterOrEqual),
            (">", Comparison::Greater),
        ] {
            if self.sign(sign) {
                return Ok(comparison);
            }
        }
        Err(self.unexpected("a comparison"))
    }

    fn list(&mut self) -> Result<Vec<Value>, String> {
        self.expect_sign("[")?;
        let mut values = vec![self.value()?];
        while self.sign(",") {
            values.push(self.value()?);
        }
        self.expect_sign("]")?;
        Ok(values)
    }

    fn value(&mut self) -> Result<Value, String> {
        let value = match self.tokens.get(self.at) {
            Some(Token::Text(text)) => Value::String(text.clone()),
            Some(Token::Number(number)) => Value::Number(number.clone()),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("true") => Value::Bool(true),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("false") => Value::Bool(false),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("null") => Value::Null,
            Some(Token::Word(_) | Token::Sign(_)) | None => return Err(self.unexpected("a value")),
        };
        self.at += 1;
        Ok(value)
    }

    /// `a.b`, also `a[['odd name']]`.
    fn path(&mut self) -> Result<Path, String> {
        let mut names = vec![self.name()?];
        loop {
            if self.sign(".") {
                names.push(self.name()?);
            } else if self.sign("[[") {
                match self.tokens.get(self.at) {
                    Some(Token::Text(text)) => names.push(text.clone()),
                    _ => return Err(self.unexpected("a name in quotes")),
                }
                self.at += 1;
                self.expect_sign("]]")?;
            } else {
                return Ok(Path(names));
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            Some(Token::Text(_) | Token::Number(_) | Token::Sign(_)) | None => {
                Err(self.unexpected("the name of a property"))
            }
        }
    }

    /// Takes a keyword if it is next.
    fn word(&mut self, wanted: &str) -> bool {
        let found =
            matches!(self.tokens.get(self.at), Some(Token::Word(word)) if word.eq_ignore_ascii_case(wanted));
        self.at += usize::from(found);
        found
    }

    /// Takes a sign if it is next.
    fn sign(&mut self, wanted: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Sign(sign)) if *sign == wanted);
        self.at += usize::from(found);
        found
    }

    fn expect_word(&mut self, wanted: &str) -> Result<(), String> {
        if self.word(wanted) { Ok(()) } else { Err(self.unexpected(wanted)) }
    }

    fn expect_sign(&mut self, wanted: &str) -> Result<(), String> {
        if self.sign(wanted) { Ok(()) } else { Err(self.unexpected(wanted)) }
    }

    fn unexpected(&self, wanted: &str) -> String {
        let found = match self.tokens.get(self.at) {
            None => "the query ends".to_owned(),
            Some(Token::Word(word)) => format!("there is {:?}", word.chars().take(40).collect::<String>()),
            Some(Token::Text(_)) => "there is a text".to_owned(),
            Some(Token::Number(number)) => format!("there is {number}"),
            Some(Token::Sign(sign)) => format!("there is {sign:?}"),
        };
        format!("{found} where {wanted} should be")
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_QUERY, Select, parse};

    #[test]
    fn queries_of_the_sdks_are_read() {
        for text in [
            "SELECT * FROM devices",
            "select * from devices;",
            "SELECT * FROM devices WHERE deviceId IN ['a','b'] AND tags.x = -1.5e3",
        ] {
            assert_eq!(parse(text).unwrap().select, Select::All, "{text}");
        }
        assert_eq!(parse("SELECT COUNT() AS n FROM devices").unwrap().select, Select::Count("n".into()));
    }

    #[test]
    fn what_is_not_understood_is_named_together_with_what_is() {
        for (text, words) in [
            ("", "SELECT should be"),
            ("SELECT * FROM devices.modules", "the end should be"),
            ("SELECT * FROM devices ORDER BY deviceId", "\"ORDER\" where the end"),
            ("SELECT COUNT() AS n FROM devices GROUP BY status", "\"GROUP\""),
            ("SELECT * FROM devices WHERE", "the query ends where the name"),
            ("SELECT * FROM devices WHERE a = 'x", "no end"),
            ("SELECT * FROM devices WHERE a = 1x", "no number"),
            ("SELECT * FROM devices WHERE a ~ 1", "'~'"),
            ("SELECT * FROM devices WHERE a IN []", "a value should be"),
            ("SELECT * FROM devices WHERE a = b", "a value should be"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(words) && fault.contains("understands"), "{text}: {fault}");
        }
        let deep = format!("SELECT * FROM devices WHERE {}a = 1", "(".repeat(1000));
        assert!(parse(&deep).unwrap_err().contains("deep"));
        assert!(parse(&"x".repeat(MAX_QUERY + 1)).unwrap_err().contains("over"));
    }
}
