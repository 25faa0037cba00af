//! The distance of two texts (Levenshtein, 1966).

/// The fewest characters to insert, delete or replace, to make one text of another. Takes time by the product of their
/// lengths; nothing where one has more than `most` characters.
pub(super) fn distance(a: &str, b: &str, most: usize) -> Option<usize> {
    let [a, b] = [a, b].map(|text| text.chars().collect::<Vec<char>>());
    if a.len().max(b.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    Some(row[b.len()])
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn edits_are_counted_by_characters() {
        for (a, b, edits) in [("", "", 0), ("kitten", "sitting", 3), ("tür", "tur", 1), ("", "abc", 3)] {
            assert_eq!((distance(a, b, 100), distance(b, a, 100)), (Some(edits), Some(edits)), "{a} {b}");
        }
        assert_eq!(distance("four", "five!", 4), None, "no answer is better than a wrong one");
    }
}
