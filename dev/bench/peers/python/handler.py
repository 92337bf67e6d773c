"""The operations as Python Lambda functions: psycopg 3, one connection that is made while the function starts."""

import json
import os

import psycopg
from psycopg.rows import dict_row

# Without autocommit a request would be BEGIN, the statement and COMMIT: two or three round trips.
conn = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row)


def answer(status, body):
    return {"statusCode": status, "headers": {"Content-Type": "application/json"}, "body": json.dumps(body)}


def execute(sql, params=None):
    global conn
    try:
        return conn.execute(sql, params)
    except psycopg.OperationalError:
        if not conn.closed:
            raise
        conn = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row)
        return conn.execute(sql, params)


def get_user(event, context):
    user_id = int(event["pathParameters"]["id"])
    user = execute("SELECT id, name, age FROM users WHERE id = %s", (user_id,)).fetchone()
    return answer(200, user) if user else answer(404, {"error": "User not found"})


def list_users(event, context):
    return answer(200, execute("SELECT id, name, age FROM users ORDER BY id LIMIT 1000").fetchall())


def update_user(event, context):
    user_id, new = int(event["pathParameters"]["id"]), json.loads(event["body"])
    sql = "UPDATE users SET name = %s, age = %s WHERE id = %s RETURNING id, name, age"
    user = execute(sql, (new["name"], new["age"], user_id)).fetchone()
    return answer(200, user) if user else answer(404, {"error": "User not found"})


def create_user(event, context):
    new = json.loads(event["body"])
    sql = "INSERT INTO users (name, age) VALUES (%s, %s) RETURNING id, name, age"
    return answer(201, execute(sql, (new["name"], new["age"])).fetchone())
