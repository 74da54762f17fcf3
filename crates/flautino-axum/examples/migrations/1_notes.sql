CREATE TABLE notes (title text);
INSERT INTO notes VALUES ('made by the first migration');
