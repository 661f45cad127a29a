"""The film API's promises, on whichever database the settings name."""

import threading
from unittest import mock

from django.db import InterfaceError, OperationalError, connection
from django.test import TransactionTestCase
from rest_framework.test import APIClient, APITestCase

from .models import Film, IssuedId

THREADS = 8


def post(path, body, key=None, client=None):
    headers = {} if key is None else {"Idempotency-Key": key}
    return (client or APIClient()).post(path, body, headers=headers)


def film(number, data="R1 5.02", machine="aoi-07"):
    return {"id": number, "machine": machine, "data": data}


class Sequence(APITestCase):
    def test_numbers_grow_and_are_never_given_twice(self):
        answers = [post("/seq/", {}) for _ in range(5)]
        self.assertEqual({answer.status_code for answer in answers}, {201})
        numbers = [answer.json()["id"] for answer in answers]
        self.assertEqual(numbers, sorted(set(numbers)))

    def test_the_same_key_gets_the_same_number(self):
        first, other, again = (post("/seq/", {}, key).json()["id"] for key in ["a-seq", "b-seq", "a-seq"])
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertEqual(IssuedId.objects.count(), 2)


    def test_many_numbers_follow_each_other_and_the_same_key_gets_the_same_ones(self):
        before = post("/seq/", {}).json()["id"]
        many = post("/seq/", {"count": 50}, "a-seq").json()
        self.assertEqual(many, {"id": before + 1, "count": 50})
        self.assertEqual(post("/seq/", {"count": 9}, "a-seq").json(), many)
        # On PostgreSQL the request that found the key taken has used up a number.
        self.assertGreater(post("/seq/", {}).json()["id"], before + 50)
        self.assertEqual(post("/seq/", {"count": 0}).status_code, 400)


class Films(APITestCase):
    def test_a_film_is_stored_as_it_is(self):
        data = "  1;\t2.50 µm\u2028 \"x\" \\ \U0001f39e \r\n"
        self.assertEqual(post("/films/", film(41, data), "k").status_code, 201)
        answer = self.client.get("/films/41/")
        self.assertEqual(answer.status_code, 200)
        body = answer.json()
        self.assertEqual((body["id"], body["machine"], body["data"]), (41, "aoi-07", data))
        self.assertEqual(set(body), {"position", "id", "machine", "data", "received_at"})

    def test_an_empty_record_is_a_record(self):
        self.assertEqual(post("/films/", film(1, "")).status_code, 201)

    def test_the_same_key_again_is_answered_alike_and_stored_once(self):
        for _ in range(3):
            answer = post("/films/", film(41), "k")
            self.assertEqual((answer.status_code, answer.json()), (201, {"id": 41}))
        self.assertEqual(Film.objects.count(), 1)

    def test_the_same_key_wins_over_another_number(self):
        post("/films/", film(41), "k")
        answer = post("/films/", film(42), "k")
        self.assertEqual((answer.status_code, answer.json()), (201, {"id": 41}))
        self.assertEqual(Film.objects.count(), 1)

    def test_a_number_that_is_used_is_a_conflict(self):
        post("/films/", film(41), "k")
        for body, key in [(film(41, "other"), "l"), (film(41, machine="b"), None), (film(41), "l")]:
            with self.subTest(body=body, key=key):
                self.assertEqual(post("/films/", body, key).status_code, 409)
        self.assertEqual(Film.objects.count(), 1)

    def test_without_keys_the_same_content_is_the_same_film(self):
        for _ in range(2):
            self.assertEqual(post("/films/", film(41)).status_code, 201)
        self.assertEqual(Film.objects.count(), 1)

    def test_without_a_number_the_next_free_one_is_taken(self):
        taken = post("/seq/", {}).json()["id"]
        post("/films/", film(taken + 1), "in the way")
        answer = post("/films/", {"machine": "m", "data": "d"}, "k")
        self.assertEqual(answer.status_code, 201)
        self.assertGreater(answer.json()["id"], taken + 1)
        self.assertEqual(post("/films/", {"machine": "m", "data": "d"}, "k").json(), answer.json())
        self.assertEqual(Film.objects.count(), 2)

    def test_what_is_no_film_is_refused(self):
        cases = [
            {}, [], "x", {"id": 1}, {"id": 1, "machine": "m"}, {"id": -1, "machine": "m", "data": ""},
            {"id": 2**63, "machine": "m", "data": ""}, {"id": "x", "machine": "m", "data": ""},
            {"id": 1, "machine": "", "data": ""}, {"id": 1, "machine": "m" * 256, "data": ""},
            {"id": 1, "machine": "m", "data": None}, {"id": 1, "machine": "m", "data": "a\0b"},
        ]
        for body in cases:
            with self.subTest(body=body):
                self.assertEqual(post("/films/", body).status_code, 400)
        for text in ["", "{", '{"id": 1, "machine": "m", "data": "\\ud800"}']:
            with self.subTest(text=text):
                answer = self.client.post("/films/", text, content_type="application/json")
                self.assertEqual(answer.status_code, 400)
        for key in ["", "k" * 256, "tab\t", "ä"]:
            with self.subTest(key=key):
                self.assertEqual(post("/films/", film(1), key).status_code, 400)
                self.assertEqual(post("/seq/", {}, key).status_code, 400)
        self.assertEqual(Film.objects.count(), 0)

    def test_films_are_read_in_the_order_of_their_arrival(self):
        for number in [7, 3, 5]:
            post("/films/", film(number))
        page = self.client.get("/films/", {"limit": 2}).json()
        self.assertEqual([row["id"] for row in page["films"]], [7, 3])
        page = self.client.get("/films/", {"after": page["next"]}).json()
        self.assertEqual([row["id"] for row in page["films"]], [5])
        end = self.client.get("/films/", {"after": page["next"]}).json()
        self.assertEqual(end, {"films": [], "next": page["next"]})
        self.assertEqual(self.client.get("/films/", {"after": "x"}).status_code, 400)
        self.assertEqual(self.client.get("/films/99/").status_code, 404)

    def test_a_database_that_is_away_is_no_fault_of_the_request(self):
        for error in [OperationalError("the database system is shutting down"), InterfaceError("connection already closed")]:
            with mock.patch.object(Film.objects, "create", side_effect=error), self.assertLogs("films"):
                answer = post("/films/", film(1))
            self.assertEqual((answer.status_code, answer.headers["Retry-After"]), (503, "1"))


class Races(TransactionTestCase):
    """Requests at the same moment, each on a connection of its own."""

    def at_once(self, requests):
        start, answers = threading.Barrier(len(requests)), [None] * len(requests)

        def run(index, path, body, key):
            try:
                start.wait(10)
                answers[index] = post(path, body, key)
            finally:
                connection.close()

        threads = [threading.Thread(target=run, args=(index, *request)) for index, request in enumerate(requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return [(answer.status_code, answer.json()) for answer in answers]

    def test_one_key_at_once_is_one_row(self):
        for round_ in range(5):
            answers = self.at_once([("/films/", film(round_), f"k{round_}")] * THREADS)
            self.assertEqual(answers, [(201, {"id": round_})] * THREADS)
        self.assertEqual(Film.objects.count(), 5)

    def test_one_key_at_once_is_one_number(self):
        answers = self.at_once([("/seq/", {}, "k-seq")] * THREADS)
        self.assertEqual(len({(status, body["id"]) for status, body in answers}), 1, answers)
        self.assertEqual(IssuedId.objects.count(), 1)

    def test_of_many_films_with_one_number_one_wins(self):
        answers = self.at_once([("/films/", film(1, f"data {n}"), f"k{n}") for n in range(THREADS)])
        self.assertEqual(sorted(status for status, _ in answers), [201] + [409] * (THREADS - 1))
        self.assertEqual(Film.objects.count(), 1)
