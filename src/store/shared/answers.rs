//! Answers that users may have a word about, known to all replicas: the word comes to any of them.

use jiff::Timestamp;
use sqlx::Row;

use crate::ids::{ResponseId, VersionRef};
use crate::store::error::StoreError;
use crate::store::open::Store;
use crate::store::read::{name, timestamp};

/// An answer that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRow {
    /// Names it.
    pub response: ResponseId,
    /// Who gave it.
    pub version: VersionRef,
    /// A hash of the user's sticky key, if the answer says something of the route.
    pub user: Option<u64>,
    /// When.
    pub at: Timestamp,
}

/// What is known of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerFound {
    /// It has had no word yet; now it has.
    Open(AnswerRow),
    /// It has had its word.
    Rated,
    /// Nothing.
    Unknown,
}

impl Store {
    /// Remembers answers, all or none, for whichever replica hears a word about them.
    pub async fn remember_answers(&self, answers: &[AnswerRow]) -> Result<(), StoreError> {
        self.within(async {
            let mut transaction = self.pool.begin().await?;
            for AnswerRow { response, version, user, at } in answers {
                let insert = "INSERT INTO answers (response, model, version, user_key, at, rated) \
                              VALUES ($1, $2, $3, $4, $5, FALSE) ON CONFLICT (response) DO NOTHING";
                sqlx::query(insert)
                    .bind(response.to_string())
                    .bind(version.model.as_str())
                    .bind(version.version.as_str())
                    .bind(user.map(u64::cast_signed))
                    .bind(at.to_string())
                    .execute(&mut *transaction)
                    .await?;
            }
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Forgets all answers but the last `kept`.
    pub async fn forget_answers(&self, kept: usize) -> Result<(), StoreError> {
        self.within(async {
            let forget = "DELETE FROM answers WHERE number <= (SELECT MAX(number) FROM answers) - $1";
            sqlx::query(forget).bind(kept as i64).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    /// The answer that a word is about; only the first word finds it.
    pub async fn rate_answer(&self, response: ResponseId) -> Result<AnswerFound, StoreError> {
        self.within(async {
            let update = "UPDATE answers SET rated = TRUE WHERE response = $1 AND NOT rated \
                          RETURNING model, version, user_key, at";
            let row = sqlx::query(update).bind(response.to_string()).fetch_optional(&self.pool).await?;
            if let Some(row) = row {
                let version = VersionRef { model: name(&row, "model")?, version: name(&row, "version")? };
                let user: Option<i64> = row.try_get("user_key")?;
                let at = timestamp(&row, "at")?;
                let user = user.map(i64::cast_unsigned);
                return Ok(AnswerFound::Open(AnswerRow { response, version, user, at }));
            }
            let select = sqlx::query("SELECT 1 AS known FROM answers WHERE response = $1");
            let known = select.bind(response.to_string()).fetch_optional(&self.pool).await?;
            Ok(known.map_or(AnswerFound::Unknown, |_| AnswerFound::Rated))
        })
        .await
    }
}
