"""Alternative texts for the pictures of HTML and Markdown pages.

page.py                            a page's text, and how it is edited without touching any other byte
finder.py                          the pictures that lack a text, by the standard library's HTML parser
markdown.py                        those of a Markdown page, by markdown-it
addresses.py                       from a picture's address in a page to the picture, within limits
wording.py                         from a caption to a short alternative text
"""
