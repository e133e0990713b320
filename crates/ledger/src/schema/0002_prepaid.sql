-- Whether a request was admitted against a balance: one that was not is not charged to money that was paid in while it ran.
ALTER TABLE reservation ADD COLUMN prepaid BIGINT NOT NULL DEFAULT 1;
