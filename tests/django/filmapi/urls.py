"""Paths of the film API."""

from django.urls import path

from films import views

urlpatterns = [
    path("seq/", views.next_id),
    path("films/", views.films),
    path("films/<int:number>/", views.film),
]
