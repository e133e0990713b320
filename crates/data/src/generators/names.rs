//! Given names with their pronouns, split into training and held-out ones

use rand_pcg::Pcg64;

use super::split::Split;

/// Somebody with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// Given name.
    pub name: &'static str,
    /// Whether she is she.
    pub female: bool,
}

impl Person {
    /// `he` or `she`.
    pub fn he(self) -> &'static str {
        if self.female { "she" } else { "he" }
    }

    /// `him` or `her`.
    pub fn him(self) -> &'static str {
        if self.female { "her" } else { "him" }
    }

    /// `his` or `her`.
    pub fn his(self) -> &'static str {
        if self.female { "her" } else { "his" }
    }
}

/// Names of girls and women, common in several countries.
const FEMALE: &str = "Ada Agnes Aisha Alba Alice Alma Amara Amelia Amina Amy Ana Anika Anita Anna Anouk Aria Astrid Aurora Ava Bea Bella \
    Beth Bianca Bridget Camila Carla Carmen Celia Chiara Chloe Clara Cora Daisy Dalia Dana Daphne Deborah Diana Dina Dora Edith Elena Elif \
    Elisa Ella Ellen Eloise Elsa Emily Emma Erika Esme Esther Eva Evelyn Farah Fatima Fiona Flora Freya Frieda Gemma Gina Gloria Greta Hana \
    Hannah Harriet Hazel Heidi Helen Helga Ida Ilse Imani Ines Ingrid Irene Iris Isabel Ivy Jade Jane Jasmine Joan Johanna Judith Julia June \
    Kate Keiko Kira Laila Lara Laura Lea Leila Lena Leonie Lila Lily Lina Lisa Lola Lotte Louisa Lucia Lucy Luna Lydia Mabel Madeleine Maeve \
    Maggie Maja Margo Maria Marina Marta Mary Matilda Maya Mei Mia Mila Mina Mira Miriam Molly Mona Nadia Naomi Nell Nina Noor Nora Odile \
    Olga Olive Olivia Paula Pearl Penny Petra Phoebe Pia Polly Priya Rachel Rania Rita Rosa Rose Ruby Ruth Sabine Salma Sandra Sara Selma \
    Sofia Sonia Stella Sunita Susan Sylvia Tamar Tara Tess Thea Tilda Tina Uma Ursula Vera Viola Wanda Willa Yara Yasmin Yuki Zara Zelda Zoe";

/// Names of boys and men, common in several countries.
const MALE: &str = "Aaron Abel Adam Adrian Ahmed Alan Albert Alec Alex Ali Amir Anders Andrew Anton Arjun Arthur Axel Basil Ben Bernard Bill \
    Boris Bruno Caleb Carl Carlos Casper Cedric Charles Chen Chris Cyrus Daniel Dario David Dennis Diego Dmitri Dylan Eddie Edgar Edwin Eli \
    Elias Emil Enzo Eric Ernest Ethan Fabian Felix Fergus Finn Frank Fred Gabriel George Gino Giles Hamza Hans Harry Hassan Hector Henry Hugo \
    Ian Ibrahim Igor Isaac Ivan Jack Jacob Jamal James Jan Jasper Javier Jim Joe Joel John Jonas Jorge Joseph Juan Jules Karim Kai Karl Kenji \
    Kevin Kofi Kurt Lars Laszlo Leo Leon Liam Linus Louis Lucas Luis Luka Magnus Malik Marco Marcus Mario Mark Martin Mateo Matthew Max Michael \
    Miguel Milo Mohamed Moritz Nathan Ned Neil Nick Nico Niels Noah Oliver Omar Oscar Otto Owen Pablo Paolo Patrick Paul Pedro Peter Philip \
    Pierre Quentin Rafael Rahul Ralph Rami Raymond Remy Ricardo Robert Robin Roland Roman Rory Rupert Sam Samir Sanjay Sebastian Simon Stefan \
    Sven Takeshi Tariq Theo Thomas Tim Tobias Tom Tony Victor Vincent Viktor Walter Wei William Xavier Yannick Yusuf Zack";

/// All names.
pub fn people() -> Split<Person> {
    let list = |names: &'static str, female| names.split_whitespace().map(move |name| Person { name, female });
    Split::new(list(FEMALE, true).chain(list(MALE, false)), |person| person.name.to_owned())
}

/// A person and another one of a different name.
pub fn two(people: &Split<Person>, random: &mut Pcg64, held_out: bool) -> (Person, Person) {
    let first = *people.choose(random, held_out);
    loop {
        let second = *people.choose(random, held_out);
        if second.name != first.name {
            return (first, second);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn hundreds_of_names_each_once() {
        let people = people();
        let all: Vec<&str> = [true, false].iter().flat_map(|&set| people.of(set)).map(|person| person.name).collect();
        assert!(all.len() > 350, "{}", all.len());
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        assert!(people.of(true).len() > 20, "{}", people.of(true).len());
    }
}
