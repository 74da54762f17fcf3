use super::*;

/// Words as they are, other tokens by a sign of their kind and their text.
fn tokens(sql: &str) -> Vec<String> {
    let show = |(token, place): (Token<'_>, Range<usize>)| match token {
        Token::Word(word) => word.to_owned(),
        Token::Quoted(_) => format!("Q{}", &sql[place]),
        Token::Literal => format!("L{}", &sql[place]),
        Token::Number => format!("N{}", &sql[place]),
        Token::Parameter => format!("P{}", &sql[place]),
        Token::Operator(_) => format!("O{}", &sql[place]),
        Token::Symbol(_) => format!("S{}", &sql[place]),
    };
    Tokens::of(sql).map(show).collect()
}

#[test]
fn words_stand_outside_constants_identifiers_and_comments() {
    for (sql, expected) in [
        ("select a -- b\nc /* d /* e */ f */ g", "select a c g"),
        ("a 'b ''c'' d' e", "a L'b ''c'' d' e"),
        (r"a E'b \' c' d", r"a LE'b \' c' d"),
        (r"a 'b \' c", r"a L'b \' c"),
        ("a -- b\rc --\r\nd", "a c d"),
        ("a $$b$$ c $x$ d $$ e $x$ f $1 g", "a L$$b$$ c L$x$ d $$ e $x$ f P$1 g"),
        ("$a$ $b$a$ c", "L$a$ $b$a$ c"),
        ("a $1$2 b$c d", "a P$1 P$2 b$c d"),
        ("a$b$ c$ $é$x$é$", "a$b$ c$ L$é$x$é$"),
        ("x'f' n'g' B'0' h", "Lx'f' Ln'g' LB'0' h"),
        ("a \"b \"\"c\" U&\"d\" U&'e' h", "a Q\"b \"\"c\" QU&\"d\" LU&'e' h"),
        ("U&\"a\" /**/ uescape -- \n '!' b", "QU&\"a\" /**/ uescape -- \n '!' b"),
        ("U&\"a\" uescape b", "QU&\"a\" uescape b"),
        ("U &\"a\" u&b", "U O& Q\"a\" u O& b"),
        ("ä1 é\u{a0}b", "ä1 é\u{a0}b"),
        ("a\u{b}b\u{c}c", "a b c"),
        ("a 'open", "a L'open"),
        ("a /* open /* */", "a"),
        ("a $$ open", "a L$$ open"),
    ] {
        assert_eq!(tokens(sql).join(" "), expected, "{sql}");
    }
}

#[test]
fn a_constant_goes_on_in_a_later_line_in_its_own_kind() {
    for sql in [
        "'a'\n'b'",
        "'a' -- b\n'c'",
        "'a'\n -- b\r\n\t'c'",
        "E'a'\n'\\' grab(1) --'",
        "U&'a'\n'b'\n'c'",
        "x'a'\n'b'",
    ] {
        assert_eq!(tokens(sql), [format!("L{sql}")]);
    }
    for (sql, is_unclosed) in
        [("'a", true), ("\"a", true), ("$$a$", true), ("/*/", true), ("E'\\'", true), ("''", false)]
    {
        let mut tokens = Tokens::of(sql);
        tokens.by_ref().for_each(drop);
        assert_eq!(tokens.is_unclosed(), is_unclosed, "{sql}");
    }
    for (sql, count) in [
        ("'a' 'b'", 2),
        ("'a' /* \n */ 'b'", 2),
        ("'a'\n /* */ 'b'", 2),
        ("'a'\n -- 'b'", 1),
        ("'a' /* b\n'c' */ d", 2),
        ("'a'\n E'b'", 2),
        ("$$a$$\n'b'", 2),
        ("E'a'\n'\\'', grab(1) --'", 6),
        ("'a'\n'\\', grab(1) --'", 6),
        ("\"a\"\n\"b\"", 2),
    ] {
        assert_eq!(tokens(sql).len(), count, "{sql}");
    }
}

#[test]
fn a_backslash_in_a_plain_constant_is_read_in_both_ways() {
    let other = |sql| {
        let mut tokens = Tokens::of(sql);
        tokens.by_ref().for_each(drop);
        tokens.other_reading()
    };
    let mut tokens = other(r"SELECT 'a\'', grab(1) --'").unwrap();
    assert!(tokens.any(|(token, _)| token.is("grab")));
    assert!(other(r"SELECT 'a\_b'").is_some());
    for sql in [
        r"SELECT E'\''",
        r"SELECT 'a', $$\$$, U&'\0061', B'\'",
        r#"SELECT "\""#,
        r"SELECT 'C:\'",
        r"SELECT length('\') + length('\')",
        r"SELECT 'a\', (1), 'b' || '\'')', 'c'",
    ] {
        assert!(other(sql).is_none(), "{sql}");
    }
}

#[test]
fn numbers_and_operators_end_where_the_server_ends_them() {
    for (sql, expected) in [
        ("1e5 2.0 .5 1. 1.e3 1e-3 1E+2", "N1e5 N2.0 N.5 N1. N1.e3 N1e-3 N1E+2"),
        ("0x1F 0o17 0b01 1_000 1_000.2_5", "N0x1F N0o17 N0b01 N1_000 N1_000.2_5"),
        ("1into 1e 1ea 0xg 1_ 1__0", "N1 into N1 e N1 ea N0 xg N1 _ N1 __0"),
        ("1..2 a.1", "N1 S. N.2 a N.1"),
        ("a.b (a).b", "a S. b S( a S) S. b"),
        ("a<+b a*-b a@-b a||b", "a O< O+ b a O* O- b a O@- b a O|| b"),
        ("a<--b\n<=c", "a O< O<= c"),
        ("a@--b\n@c", "a O@ O@ c"),
        ("a+/*b*/-c", "a O+ O- c"),
        ("a::b := ;", "a S: S: b S: O= S;"),
    ] {
        assert_eq!(tokens(sql).join(" "), expected, "{sql}");
    }
    // However long a run of them is, each is one.
    for length in 1..200 {
        let sql = format!("{}/* */1", "+".repeat(length));
        assert_eq!(tokens(&sql).len(), length + 1, "{sql}");
    }
}

#[test]
fn tokens_of_any_text_are_in_order_and_hold_whole_characters() {
    let pieces = [
        "'", "\"", "$", "$a$", "--", "/*", "*/", "\\", "E'", "U&\"", "ä", ";", "\n", "1", ".", "x",
        "+",
    ];
    for a in pieces {
        for b in pieces {
            for c in pieces {
                for d in pieces {
                    let sql = [a, b, c, d].concat();
                    for escapes in [false, true] {
                        let mut end = 0;
                        for (_, place) in (Tokens { escapes, ..Tokens::of(&sql) }) {
                            assert!(place.start >= end && place.end > place.start, "{sql}");
                            assert!(sql.get(place.clone()).is_some(), "{sql}");
                            end = place.end;
                        }
                    }
                }
            }
        }
    }
}
