-- A database of over a million rows, with a fault of each kind and a twin of each that is as it should be.

CREATE UNLOGGED TABLE countries (id int PRIMARY KEY, code text NOT NULL UNIQUE);
INSERT INTO countries SELECT n, 'c' || n FROM generate_series(1, 200) n;

CREATE UNLOGGED TABLE customers (
    id int PRIMARY KEY, email varchar(60) NOT NULL, city text NOT NULL, zip text NOT NULL,
    country_id int NOT NULL REFERENCES countries
);
-- city and zip depend on each other, which only CREATE STATISTICS would tell the planner
INSERT INTO customers
SELECT n, 'user' || n || '@example.org', 'city' || n % 50, 'zip' || n % 50, 1 + n % 200
FROM generate_series(1, 100000) n;
CREATE INDEX customers_country_idx ON customers (country_id);
CREATE INDEX customers_city_idx ON customers (city);                -- redundant: the beginning of the next one
CREATE INDEX customers_city_zip_idx ON customers (city, zip);
CREATE INDEX customers_country_again_idx ON customers (country_id); -- a duplicate
CREATE INDEX customers_zip_idx ON customers (zip);                  -- unused
CREATE UNIQUE INDEX customers_email_idx ON customers (email);       -- never read, but it keeps duplicates out

CREATE UNLOGGED TABLE orders (
    id int NOT NULL, customer_id int NOT NULL, total int NOT NULL, placed timestamptz NOT NULL
);
INSERT INTO orders
SELECT n, 1 + n % 100000, n % 1000, to_timestamp(1767225600 + n) FROM (SELECT generate_series(1, 1000000) AS n) made;
ALTER TABLE orders ADD PRIMARY KEY (id);
CREATE INDEX orders_placed_idx ON orders (placed);
ALTER TABLE orders ADD CONSTRAINT orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers;

-- a foreign key without an index on a table that is too small to matter
CREATE UNLOGGED TABLE notes (id int PRIMARY KEY, customer_id int REFERENCES customers, text text);
INSERT INTO notes SELECT n, n, 'note' FROM generate_series(1, 100) n;

-- most of its rows are gone, its index has kept its size
CREATE UNLOGGED TABLE sessions (id int NOT NULL, token text NOT NULL) WITH (autovacuum_enabled = off);
INSERT INTO sessions SELECT n, md5(n::text) FROM generate_series(1, 60000) n;
CREATE INDEX sessions_token_idx ON sessions (token);
CREATE INDEX sessions_id_idx ON sessions (id);
DELETE FROM sessions WHERE id % 20 <> 0;

-- counted while it was empty
CREATE UNLOGGED TABLE visits (city text NOT NULL, day int NOT NULL) WITH (autovacuum_enabled = off);
INSERT INTO visits VALUES ('city0', 0);
ANALYZE visits;
INSERT INTO visits SELECT 'city' || n % 500, n % 30 FROM generate_series(1, 3000) n;

CREATE UNLOGGED TABLE places (city text NOT NULL, size int NOT NULL);
INSERT INTO places SELECT 'city' || n, n FROM generate_series(1, 12000) n;

-- two rows are equal, so that a unique index on them fails
CREATE UNLOGGED TABLE coupons (code text NOT NULL);
INSERT INTO coupons SELECT 'coupon' || n FROM generate_series(1, 20000) n UNION ALL VALUES ('coupon7');
