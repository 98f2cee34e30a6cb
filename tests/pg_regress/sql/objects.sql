-- What the extension is made of. From PostgreSQL 17 the list has the row types too: objects_1.out.
\dx+ magic_link
