//! What The Things Stack defines: message kinds and ids in its webhooks. Knows no Azure.
